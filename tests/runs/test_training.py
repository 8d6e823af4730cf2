"""Training and sampling of every kind of data end to end, and the messages before the first step."""

import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import array, folder
from experiments.results import run_sampling
from score_sde.experiment import Experiment
from score_sde.run_config import from_workdir
from score_sde.runs import read_state, run_training
from score_sde.runs import training as training_module
from score_sde.trained import restored
from tests.data.test_folder import noise, write

RNG = np.random.default_rng(0)
ROWS = 12


@pytest.fixture(autouse=True, scope="module")
def ordinary_promotion():
    """Optax counts steps in integers and raises floats to them, which strict promotion forbids."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def tiny(config: ConfigDict, **training) -> ConfigDict:
    """The smallest network, four steps and three evaluations a sample, on one device."""
    if config.network.name == "mlp":
        config.network.update({"width": 8, "depth": 1})
    else:
        config.network.update({"channels": 8, "channel_multipliers": (1,), "blocks_per_level": 1})
        config.network.attention_resolutions = ()
    every = {"log_every": 2, "eval_every": 4, "sample_every": 4, "checkpoint_every": 4, "eval_levels": 2}
    config.training.update({"num_steps": 4, "batch_size": 4, "eval_batch_size": 4, **every, **training})
    config.sampling.grid.num_steps = 3
    config.sampling.num_preview = 2
    config.mesh = ConfigDict({"num_devices": 1, "data": None, "fsdp": 1, "tensor": 1})
    return config


def on_arrays(path, variant="", network=(), **fields) -> ConfigDict:
    config = array.get_config(variant)
    for source in (config.data.train, config.data.eval):
        source.update({"path": str(path), **fields})
    config.network.update(dict(network))
    return tiny(config)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file for each kind of data."""
    where = tmp_path_factory.mktemp("data")
    riders = {"y": np.arange(ROWS) % 3, "text": RNG.normal(size=(ROWS, 5)).astype(np.float32)}
    kinds = {
        "signal": RNG.normal(size=(ROWS, 8, 1)).astype(np.float32),
        "images": RNG.integers(0, 256, (ROWS, 4, 6, 2)).astype(np.uint8),
        "points": RNG.normal(size=(ROWS, 3)).astype(np.float32),
    }
    for name, x in kinds.items():
        np.savez(where / f"{name}.npz", x=x, **riders)
    for i in range(3):
        write(where / "folder" / f"{i}.png", noise(4, 4, 3))
    np.save(where / "folder" / "text.npy", riders["text"][:3])
    return where


def cases(files):
    """name -> (config, the conditions that samples 0 … 4 have)."""
    text, label = np.load(files / "points.npz")["text"], np.array([0, 1, 2, 0, 1])
    on_folder = folder.get_config()
    for source in (on_folder.data.train, on_folder.data.eval):
        source.update({"path": str(files / "folder"), "image_size": 4, "conditions": {"embedding": "text.npy"}})
    on_folder.network.embedding_dim = 5
    labelled = {"label_key": "y", "network": {"num_classes": 3}}
    worded = {"conditions": {"embedding": "text"}, "network": {"embedding_dim": 5}}
    return {
        "signal": (on_arrays(files / "signal.npz"), {}),
        "labelled images": (on_arrays(files / "images.npz", **labelled), {"label": label}),
        "points": (on_arrays(files / "points.npz", "points"), {}),
        "embedding": (on_arrays(files / "points.npz", "points", **worded), {"embedding": text[:5]}),
        "folder": (tiny(on_folder), {"embedding": text[[0, 1, 2, 0, 1]]}),
    }


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "name", [pytest.param("signal", marks=pytest.mark.slow), "labelled images", "points", "embedding", "folder"]
)
def test_trains_evaluates_and_samples(name, files, tmp_path):
    """The conditions that samples have are functions of their index alone: a part is a part of the whole."""
    config, condition = cases(files)[name]
    workdir = tmp_path / "any [lr=1e-3]* path?\n%41 #'ä"
    state = run_training(Experiment(config), workdir, quiet=True)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert (
        int(state.step) == 4
        and np.isfinite([line["eval/eps_error"] for line in lines if "eval/eps_error" in line]).all()
    )
    experiment = from_workdir(workdir)
    drawn = run_sampling(restored(experiment, workdir), 5, 5)
    part = run_sampling(restored(experiment, workdir), 2, 2, first_index=3, output=workdir / "part")
    assert drawn.x.shape == (5, *experiment.spec.shape) and np.isfinite(drawn.x).all()
    assert drawn.condition.keys() == condition.keys()
    for key, values in condition.items():
        np.testing.assert_array_equal(drawn.condition[key], values)
    np.testing.assert_allclose(part.x, drawn.x[3:], rtol=1e-4, atol=1e-5)


def test_all_conditions_of_an_image_come_from_one_held_out_example(files):
    """A label and an embedding that contradict each other are nothing that the network was trained on."""
    points, fields = np.load(files / "points.npz"), {"label_key": "y", "conditions": {"embedding": "text"}}
    config = on_arrays(files / "points.npz", "points", **fields)
    condition = Experiment(config).sampling_condition(ROWS - 1, ROWS)
    rows = [ROWS - 1, *range(ROWS - 1)]
    np.testing.assert_array_equal(condition["embedding"], points["text"][rows])
    np.testing.assert_array_equal(condition["label"], points["y"][rows])
    config.sampling.label = 2
    condition = Experiment(config).sampling_condition(3, ROWS)
    rows = np.flatnonzero(points["y"] == 2)[np.arange(3, 3 + ROWS) % (ROWS // 3)]
    np.testing.assert_array_equal(condition["embedding"], points["text"][rows])
    assert condition["label"].tolist() == [2] * ROWS


def test_a_class_without_held_out_examples_cannot_be_drawn_with_embeddings(files, tmp_path):
    points = np.load(files / "points.npz")
    np.savez(tmp_path / "few.npz", **{name: points[name][points["y"] < 2] for name in points})
    config = on_arrays(files / "points.npz", "points", label_key="y", conditions={"embedding": "text"})
    config.data.eval.path, config.sampling.label = str(tmp_path / "few.npz"), 2
    with pytest.raises(
        ValueError, match="sampling.label=2 needs a held-out example of this class, .*data.eval has none"
    ):
        Experiment(config).sampling_condition(0, 2)
    config.sampling.label = 1
    assert Experiment(config).sampling_condition(0, 2)["label"].tolist() == [1, 1]


def test_a_label_is_a_class(files):
    """The label after the last is the null class, which no training here shows to the network."""
    config = on_arrays(files / "images.npz", label_key="y", network={"num_classes": 3})
    config.sampling.label = 2
    assert Experiment(config).sampling_condition(4, 2)["label"].tolist() == [2, 2]
    config.sampling.label = 3
    with pytest.raises(
        ValueError, match=r"sampling.label needs 0 <= label < 3, .*got 3; the network's null class is never"
    ):
        run_training(Experiment(config), files / "no run", quiet=True)
    assert not (files / "no run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data.eval.path": "no.npz"}, "ArraySource needs no.npz, which does not exist"),
        ({"data.eval.path": ""}, "ArraySource needs a path, got ''"),
        (
            {"data.eval.conditions": {}},
            r"config.data.eval needs the kind of examples of data.train; conditions: .*here",
        ),
        ({"network.embedding_dim": 4}, "network.embedding_dim=4, but the data have 5 numbers in the embed"),
        ({"sampling.grid": {"name": "uniform", "num_steps": 3, "end": 7.0}}, "needs .*end"),
        ({"sampling.solver": {"name": "ddim", "eta": -1.0}}, "DDIM needs .*eta"),
        ({"training.nonfinite": "ignore"}, "training.nonfinite needs one of 'stop', 'skip', got 'ignore'"),
    ],
)
def test_what_would_fail_later_is_told_before_the_first_step(change, message, files, tmp_path, monkeypatch):
    fields = {"conditions": {"embedding": "text"}, "network": {"embedding_dim": 5}}
    config = on_arrays(files / "points.npz", "points", **fields)
    for path, value in change.items():
        *parents, field = path.split(".")
        section = config
        for parent in parents:
            section = section[parent]
        section[field] = ConfigDict(value) if isinstance(value, dict) else value
    monkeypatch.setattr(training_module, "compile_step", None)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run_training(Experiment(config), tmp_path / "run", quiet=True)


@pytest.mark.few(1)
@pytest.mark.parametrize("failing", ["held_out_batches", "plots"])
def test_an_evaluation_or_picture_that_fails_costs_no_training(failing, files, tmp_path, monkeypatch):
    """The step is saved although no checkpoint is due there, and the run goes on from it."""
    config = on_arrays(files / "points.npz", "points")
    config.training.update({"num_steps": 6, "eval_every": 3, "sample_every": 3, "checkpoint_every": 100})
    with monkeypatch.context() as patch:
        patch.setattr(training_module, failing, None)
        with pytest.raises((TypeError, AttributeError), match="NoneType"):
            run_training(Experiment(config), tmp_path, quiet=True)
    assert int(read_state(Experiment(config), tmp_path).step) == 3
    assert int(run_training(Experiment(config), tmp_path, quiet=True).step) == 6


@pytest.mark.slow
def test_a_damaged_example_is_replaced_and_counted_and_the_run_resumes_exactly(tmp_path, capsys):
    """After an error the same command with on_error=skip goes on, to the same bits as a run that never stopped."""
    x = RNG.normal(size=(6, 3)).astype(np.float32)
    x[2] = np.nan
    np.savez(tmp_path / "points.npz", x=x)
    config = on_arrays(tmp_path / "points.npz", "points")
    config.training.update({"num_steps": 8, "sample_every": 0, "log_every": 1})
    raising = config.copy_and_resolve_references()
    config.data.on_error = "skip"
    whole = run_training(Experiment(config), tmp_path / "whole")
    assert "data.train: 6 examples of shape (3,), continuous" in capsys.readouterr().out
    with pytest.raises(
        ValueError, match=r"Batch \d of training cannot be read: ArraySource needs finite .*on_error=skip"
    ):
        run_training(Experiment(raising), tmp_path / "stopped", quiet=True)
    stopped = run_training(Experiment(config), tmp_path / "stopped", quiet=True)
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(stopped), strict=True):
        np.testing.assert_array_equal(one, other)
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    replaced = [line["replaced_examples"] for line in lines if "replaced_examples" in line]
    batches = Experiment(config).train_batches
    assert replaced == [batches[step]["replaced"].sum() for step in range(8)] and sum(replaced) in (5, 6)


@pytest.mark.slow
def test_a_run_goes_on_under_a_config_that_says_what_it_left_out(files, tmp_path):
    config = on_arrays(files / "points.npz", "points")
    for source in (config.data.train, config.data.eval):
        for name in ("label_key", "conditions", "levels", "value_range"):
            del source[name]
    config.training.num_steps = 2
    run_training(Experiment(config), tmp_path, quiet=True)
    assert int(run_training(Experiment(on_arrays(files / "points.npz", "points")), tmp_path, quiet=True).step) == 4


@pytest.mark.slow
def test_reading_says_nothing(files, tmp_path, caplog):
    config = on_arrays(files / "points.npz", "points")
    run_training(Experiment(config), tmp_path, quiet=True)
    caplog.clear()
    read_state(Experiment(config), tmp_path)
    assert "read only" not in caplog.text
