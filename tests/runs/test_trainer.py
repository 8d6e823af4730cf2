"""Training from plain Python: with a folder and without, resumed, read back, and the same numbers as from a config."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import score_sde as ss
from configs import density2d
from score_sde.experiment import Experiment
from score_sde.run_config import describe
from score_sde.runs import run_training, trainer_of
from score_sde.runs.weights import InitFrom, read_weights
from score_sde.training.optimizers import optimizer_of
from tests.training.killed_run import FlatMLP

POINTS = np.random.default_rng(0).normal(size=(96, 2))
LABELS = np.arange(96) % 3
HELD_OUT = {"x": POINTS[:20], "label": LABELS[:20]}


@pytest.fixture(autouse=True, scope="module")
def ordinary_promotion():
    """Optax counts steps in integers and raises floats to them, which strict promotion forbids."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def task(beta_max: float = 20.0) -> ss.tasks.Task:
    sde = ss.VP(beta_max=beta_max)
    network = ss.networks.MLP(width=8, depth=1, num_classes=3)
    denoiser = ss.Denoiser(sde, ss.denoising.Epsilon(), network)
    return ss.tasks.Denoising(denoiser, ss.objectives.DenoisingScoreMatching(sde), eval_levels=2)


def trainer(workdir=None, *, of=None, data=None, **settings) -> ss.Trainer:
    """Steps, checkpoints, held-out measurements and pictures of labelled points."""
    every = {"batch_size": 16, "log_every": 2, "eval_every": 4, "sample_every": 4, "checkpoint_every": 3}
    how = {"eval_data": HELD_OUT, "optimizer": optax.adam(1e-3), "half_lives_kimg": (0.1, 5.0)}
    how |= {"rampup_ratio": None, "grid": ss.grids.EDMRho(3), "num_preview": 4}
    data = data or {"x": POINTS, "label": LABELS}
    return ss.Trainer(of or task(), data, workdir, **{**how, **every, **settings})


BARE = {"eval_every": 0, "sample_every": 0}  # which compile programs of their own


def bits(tree) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder, its trainer, and what eight steps in it gave."""
    folder = tmp_path_factory.mktemp("trainer") / "run"
    made = trainer(folder)
    return folder, made, made.run(8, quiet=True)


def test_without_a_folder_the_same_model_is_trained_and_nothing_is_written(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained = trainer(**BARE).run(8, quiet=True)
    assert (trained.step, trained.average, trained.workdir) == (8, "0.1", None)
    assert bits(trained.params) == bits(run[2].params)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="without a workdir has no checkpoint to load"):
        trainer().load()
    with pytest.raises(ValueError, match="profile_steps writes into the folder of the run"):
        trainer().run(8, quiet=True, profile_steps=(1, 2))


@pytest.mark.slow
def test_a_folder_has_what_a_config_s_run_has(run):
    folder, _, _ = run
    names = {path.name for path in folder.iterdir()}
    assert {"checkpoints", "history.json", "metrics.jsonl", "samples", "description.json"} <= names
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 8 and "eval/eps_error" in last and "learning_rate" not in last
    described = json.loads((folder / "description.json").read_text())
    assert described["task"]["denoiser"]["sde"] == {"name": "VP", "beta_min": 0.1, "beta_max": 20.0}
    assert described["training"]["num_steps"] == 8


def test_a_run_that_is_cut_goes_on_to_the_same_bits(run, tmp_path):
    assert trainer(tmp_path, **BARE).run(5, quiet=True).step == 5
    assert bits(trainer(tmp_path, **BARE).run(8, quiet=True).params) == bits(run[2].params)


def test_another_task_in_the_folder_is_refused_unless_it_is_allowed(run, tmp_path):
    trainer(tmp_path, **BARE).run(1, quiet=True)
    with pytest.raises(
        ValueError,
        match=r"another config: task.denoiser.sde.beta_max: 20.0 there, 18.0 here;.*description.json.*allow_change=\['task",
    ):
        trainer(tmp_path, of=task(18.0), **BARE).run(2, quiet=True)
    with pytest.raises(ValueError, match=r"other data: data.train.facts.digest"):
        trainer(tmp_path, data={"x": -POINTS, "label": LABELS}, **BARE).run(2)
    assert trainer(tmp_path, of=task(18.0), **BARE).run(2, quiet=True, allow_change=["task"]).step == 2


@pytest.mark.slow
def test_what_is_loaded_is_what_was_trained(run):
    folder, made, trained = run
    loaded = made.load()
    assert (loaded.step, loaded.average, loaded.workdir) == (8, "0.1", folder)
    assert bits(loaded.params) == bits(trained.params)
    assert made.load(step=6).step == 6 and made.load(average="none").average == "none"
    assert bits(made.load(average="5.0").params) != bits(trained.params)
    with pytest.raises(FileNotFoundError, match=r"No checkpoint at step 7 in .*it has \[6, 8\]"):
        made.load(step=7)
    with pytest.raises(ValueError, match=r"average .*needs one of \['0.1', '5', 'none'\].*got '7'"):
        made.load(average="7")


def test_load_says_that_a_run_without_a_config_needs_its_task(run, tmp_path):
    with pytest.raises(ValueError, match=r"without a config.*Trainer\(task, data, workdir\).load\(\)"):
        ss.load(run[0])
    with pytest.raises(FileNotFoundError, match="No config.json in"):
        ss.load(tmp_path)
    with pytest.raises(ValueError, match="trained with a config, and this one was trained without"):
        run[2].experiment


def test_samples_take_the_classes_in_turn_or_those_that_are_given(run):
    """Image i is a function of its index, its condition and the key."""
    trained, key = run[2], jax.random.key(1)
    drawn = trained.generate(5, key)
    assert drawn.condition["label"].tolist() == [0, 1, 2, 0, 1]
    x = trained.sample(5, key)
    assert x.dtype == np.float32 and (x == drawn.x).all()
    np.testing.assert_allclose(trained.sample(5, key, labels=[0, 1, 2, 0, 1], batch_size=5), x, atol=1e-6)
    ones = trained.sample(5, key, condition={"label": np.ones(5, np.int32)})
    assert (trained.sample(5, key, labels=1) == ones).all()
    np.testing.assert_allclose(ones[[1, 4]], x[[1, 4]], atol=1e-6)
    assert np.abs(ones[[0, 2, 3]] - x[[0, 2, 3]]).min() > 1e-6
    with pytest.raises(ValueError, match=r"'label' of shape \(5,\), a row for each example, got \(3,\)"):
        trained.sample(5, key, labels=[0, 1, 2])
    with pytest.raises(ValueError, match=r"needs all conditions of the model, \['label'\], or none, got \['text'\]"):
        trained.sample(5, key, condition={"text": np.ones((5, 2))})


def test_another_solver_and_grid_for_one_call(run):
    trained, key = run[2], jax.random.key(1)
    drawn = trained.generate(4, key, solver=ss.solvers.DDIM(), grid=ss.grids.Uniform(2))
    assert drawn.nfe.tolist() == [2] * 4
    assert trained.generate(4, key).nfe.tolist() == [5] * 4


def test_log_densities_and_denoising_are_those_of_the_bound_denoiser(run):
    trained, key = run[2], jax.random.key(1)
    x, t = jnp.asarray(POINTS[:4], jnp.float32), jnp.full(4, 0.3, jnp.float32)
    condition = {"label": LABELS[:4].astype(np.int32)}
    bound = task().denoiser.bind(trained.params, {"label": jnp.asarray(condition["label"])})
    assert bits(trained.denoise(condition)(x, t)) == bits(bound(x, t))
    assert bits(trained.log_prob(x, key, condition).log_prob) == bits(ss.LogProb()(key, bound, x).log_prob)


def test_images_come_back_in_the_levels_of_the_data():
    images = np.random.default_rng(0).integers(0, 256, (8, 2, 2, 1), dtype=np.uint8)
    sde = ss.VP()
    denoiser = ss.Denoiser(sde, ss.denoising.Epsilon(), FlatMLP())
    task = ss.tasks.Denoising(denoiser, ss.objectives.DenoisingScoreMatching(sde))
    made = ss.Trainer(task, images, batch_size=4, half_lives_kimg=(), grid=ss.grids.EDMRho(2))
    trained = made.trained(made.recipe.init_state())
    assert (trained.step, trained.average) == (0, "none")
    drawn, x = trained.sample(3, jax.random.key(0)), trained.generate(3, jax.random.key(0)).x
    assert drawn.dtype == np.uint8 and drawn.shape == (3, 2, 2, 1)
    assert (drawn == np.clip(np.rint((x.astype(np.float64) + 1) * 127.5), 0, 255)).all()


def test_a_config_trains_the_bits_that_its_objects_train_in_plain_python(tmp_path):
    """The same trainer: what a config adds is its file."""
    config = density2d.get_config("moons")
    config.data.train.num_examples = config.data.eval.num_examples = 64
    config.network.update({"width": 8, "depth": 1})
    config.training.update({"num_steps": 4, "batch_size": 16, "eval_every": 0, "sample_every": 0, "log_every": 2})
    config.ema.half_lives_kimg = (0.1,)
    experiment = Experiment(config)
    state = run_training(experiment, tmp_path / "config", quiet=True)
    plain = ss.Trainer(
        experiment.task,
        experiment.train_source,
        tmp_path / "plain",
        optimizer=optimizer_of(experiment.settings.optimizer),
        seed=experiment.settings.seed,
        half_lives_kimg=(0.1,),
        batch_size=16,
        log_every=2,
    )
    assert bits(plain.run(4, quiet=True).params) == bits(state.ema["0.1"])
    logs = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("config", "plain")]
    assert logs[0] == logs[1]
    loaded = ss.load(tmp_path / "config")
    assert isinstance(trainer_of(experiment, tmp_path / "config"), ss.Trainer)
    assert bits(loaded.params) == bits(state.ema["0.1"]) and loaded.experiment.resolved == experiment.resolved
    assert bits(ss.load(tmp_path / "config", average="none").params) == bits(state.params)
    drawn = loaded.generate(3, experiment.run_key("sample"), batch_size=4)
    assert (drawn.x == experiment.generator(experiment.run_key("sample"), loaded.params, 3, 4).x).all()
    # A run goes on as it began; its weights can be taken on in the other way too.
    plain.workdir, elsewhere = tmp_path / "config", tmp_path / "plain"
    with pytest.raises(ValueError, match="was trained with a config, and cannot go on without one.*another folder"):
        plain.run(5, quiet=True)
    with pytest.raises(ValueError, match="was trained without a config, and cannot go on with one"):
        run_training(experiment, elsewhere, quiet=True)
    for recipe, description, folder in (
        (experiment.recipe, describe(experiment), elsewhere),
        (plain.recipe, plain.description, tmp_path / "config"),
    ):
        weights = read_weights(recipe, description, InitFrom(str(folder)))
        assert bits(weights.params) == bits(loaded.params) and len(weights.notes) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"log_evry": 3}, r"Trainer has the unknown field 'log_evry'.*Did you mean 'log_every'\?"),
        ({"log_every": 0}, "Trainer.log_every needs a whole number >= 1, got 0"),
        ({"half_lives_kimg": (-1.0,)}, "Trainer.half_lives_kimg needs different numbers > 0"),
        ({"num_steps": 10}, r"num_steps is not an argument of Trainer, but of run, as in Trainer\(task"),
        ({"eval_levels": 10}, "eval_levels is not an argument of Trainer, but of the task"),
        ({"eval_data": None}, "Trainer needs eval_data, held-out examples, where eval_every is not 0"),
        ({"accumulation_steps": 3, "batch_size": 16}, "accumulation_steps needs to be >= 1 and divide the"),
    ],
)
def test_settings_that_are_not_known_or_not_allowed(settings, message):
    with pytest.raises(ValueError, match=message):
        trainer(**settings)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (POINTS[:, 0], r"Data need an array \[n, \*shape of one example\] with n >= 1, got shape \(96,\)"),
        (np.zeros((3, 2), np.int32), r"8-bit levels \(uint8\) or floating numbers, got int32"),
        (np.where(POINTS > 2, np.nan, POINTS), "needs finite values, got others in row"),
        (100 * POINTS, r"the model sees values from -.* to .*; scale them to about \[-1, 1\]"),
        (np.random.default_rng(0).uniform(size=(4, 8, 8, 1)), r"from .* to .*as by 2 \* x - 1 for images in \[0, 1\]"),
        ({"label": LABELS}, r"Data need 'x', the examples that are learned, got only \['label'\]"),
        ({"x": POINTS, "label": LABELS[:4]}, "'label' needs one row for each of 96 examples"),
    ],
)
def test_arrays_that_cannot_be_learned(data, message):
    with pytest.raises(ValueError, match=message):
        ss.Trainer(task(), data, batch_size=16)
