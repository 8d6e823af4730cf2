"""From a ConfigDict to objects: every config builds, and every error names its cause."""

import importlib
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import base
from experiments.flags import sentence_of
from score_sde import parallel
from score_sde.catalogues import CATALOGUES
from score_sde.config import build, completed, plain
from score_sde.experiment import Experiment
from score_sde.guidance import Threshold
from score_sde.run_config import apply_override
from score_sde.sdes import SDES, VP
from score_sde.solvers.adaptive_ode import Adaptive
from score_sde.tools.plan import Blank
from score_sde.training.optimizers import rate_warnings

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"
FILES = [p for p in sorted(CONFIGS.rglob("*.py")) if p.name != "__init__.py" and p.parent.name != "sweeps"]


@pytest.mark.few(4)
@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_config_builds(path):
    """Everything but the data, which need not be here."""
    module = importlib.import_module("configs." + ".".join(path.relative_to(CONFIGS).with_suffix("").parts))
    config = module.get_config()
    experiment = Experiment(config)
    vars(experiment)["train_source"] = Blank((32, 32, 3), config.network.get("num_classes"))
    for part in ("sde", "denoiser", "objective", "optimizer", "solver", "grid", "log_prob"):
        assert getattr(experiment, part) is not None
    times = experiment.grid.times(experiment.sde)
    experiment.solver.check(experiment.sde, times)
    num_steps = experiment.settings.training.num_steps
    with jax.numpy_dtype_promotion("standard"):
        assert not rate_warnings(experiment.optimizer.schedule, experiment.schedule, 0, num_steps)


def test_a_cosine_without_a_length_is_as_long_as_the_training():
    """In what is built, and in what a resumed run compares."""
    config = base.get_config()
    config.optimizer.schedule = ConfigDict({"schedule": "cosine", "decay_steps": None})
    config.training.num_steps = 40
    with jax.numpy_dtype_promotion("standard"):
        rates = [float(Experiment(config).optimizer.schedule(n)) for n in (0, 20, 40)]
    rate = config.optimizer.learning_rate
    assert rates == pytest.approx([rate, rate / 2, 0.0], abs=1e-10)
    assert completed(plain(config), CATALOGUES)["optimizer"]["schedule"]["decay_steps"] == 40


def broken(**sections):
    config = base.get_config()
    for path, value in sections.items():
        *parents, field = path.split("__")
        section = config
        for name in parents:
            section = section[name]
        with section.unlocked(), section.ignore_type():
            section[field] = ConfigDict(value) if isinstance(value, dict) else value
    return Experiment(config)


def test_every_bit_of_a_seed_counts():
    """JAX by itself keeps the lower 32; for seeds of so many bits the keys stay what they were."""
    data = [jax.random.key_data(broken(seed=seed).run_key("train")) for seed in (5, 5 + 2**32, 5 + 2**33, 5 + 2**62)]
    assert len({tuple(np.asarray(key).tolist()) for key in data}) == 4
    for seed in (5, 2**31 + 5, 2**32 - 1):
        expected = jax.random.fold_in(jax.random.key(seed), 1)
        assert jnp.array_equal(jax.random.key_data(broken(seed=seed).run_key("train")), jax.random.key_data(expected))


def test_every_use_of_every_seed_has_a_key_of_its_own():
    """Also what is folded into each: the step, the image, the repeat."""
    purposes = ("init", "train", "sample", "likelihood", "evaluate", "measure")
    keys = jnp.stack([broken(seed=seed).run_key(purpose) for seed in range(3) for purpose in purposes])
    folded = jax.vmap(lambda key: jax.vmap(lambda n: jax.random.fold_in(key, n))(jnp.arange(20)))(keys)
    data = jax.random.key_data(jnp.concatenate([keys, folded.ravel()]))
    assert len({tuple(row) for row in data.tolist()}) == 18 * 21


def test_unknown_names_and_fields_are_listed_with_the_closest():
    with pytest.raises(ValueError, match=r"config.sde.name needs one of .*'vp'.*got 'vpp'. Did you mean 'vp'\?"):
        broken(sde={"name": "vpp"}).sde
    with pytest.raises(ValueError, match=r"config.sde has the unknown field 'beta_mx'.*Did you mean 'beta_max'\?"):
        broken(sde={"name": "vp", "beta_mx": 3.0}).sde
    with pytest.raises(ValueError, match=r"config.objective.weighting.name needs one of .*Did you mean 'likelihood'"):
        broken(objective__weighting={"name": "likelyhood"}).objective
    with pytest.raises(ValueError, match=r"config.sampling.solver.predictor has the unknown field 'etta'"):
        predictor = {"name": "ddim", "etta": 1.0}
        broken(sampling__solver={"name": "predictor_corrector", "predictor": predictor}).solver
    with pytest.raises(ValueError, match=r"unknown \['sampler'\]"):
        broken(sampler={"name": "x"})
    with pytest.raises(ValueError, match="VP needs 0 <= beta_min <= beta_max"):
        broken(sde={"name": "vp", "beta_min": 3.0, "beta_max": 1.0}).sde


def test_thresholding_is_a_field_that_a_config_need_not_have():
    def wrapped(**fields):
        return broken(sampling__threshold=fields).guidance[-1]

    assert isinstance(wrapped(name="static", limit=2.0), Threshold)
    assert wrapped(name="dynamic", percentile=0.9).percentile == 0.9
    for none in (Experiment(base.get_config()), broken(sampling__threshold=None)):
        assert none.guidance == ()
    config = base.get_config()
    apply_override(config, "sampling.threshold={'name': 'dynamic', 'limit': 1.5}")
    apply_override(config, "sampling.label=3")
    assert Experiment(config).guidance[-1].limit == 1.5
    with pytest.raises(
        ValueError, match=r"config.sampling.threshold.name needs one of \['dynamic', 'static'\].*Did you"
    ):
        wrapped(name="dynamc")
    with pytest.raises(
        ValueError, match=r"threshold has the unknown field 'percentil'; 'dynamic' takes \['percentile', "
    ):
        wrapped(name="dynamic", percentil=0.9)
    with pytest.raises(ValueError, match="Threshold needs limit > 0, got limit=-1.0"):
        wrapped(name="static", limit=-1.0)
    with pytest.raises(
        ValueError, match=r"config.sampling.threshold needs a section with a name, .*, got 'dynamic'; the"
    ):
        broken(sampling__threshold="dynamic")


def test_a_missing_argument_is_an_error_of_the_config():
    with pytest.raises(ValueError, match="config.sampling.solver: 'predictor_corrector' cannot be built"):
        broken(sampling__solver={"name": "predictor_corrector"}).solver


def test_build_passes_positional_arguments():
    assert build("sde", SDES, {"name": "vp", "beta_max": 10.0}) == VP(beta_max=10.0)


def test_a_mesh_that_does_not_fit():
    """The devices, the batch, the network; and where the number of devices stood before."""
    with pytest.raises(ValueError, match="The mesh needs 1 <= num_devices"):
        broken(mesh__num_devices=4096).mesh
    with pytest.raises(ValueError, match="training.num_devices is now mesh.num_devices, got 2; move it"):
        broken(training__num_devices=2)
    with pytest.raises(ValueError, match=r"config.mesh has the unknown field 'fdsp'.*Did you mean 'fsdp'\?"):
        broken(mesh__fdsp=2)
    with pytest.raises(ValueError, match="accumulation_steps needs to be >= 1 and divide the 128 examples"):
        broken(optimizer__accumulation_steps=3, mesh__num_devices=1).mesh


def test_a_network_that_declares_no_tensor_axis(monkeypatch):
    mesh = jax.sharding.AbstractMesh((1, 1, 2), parallel.AXES)
    monkeypatch.setattr(parallel, "make_mesh", lambda **sizes: mesh)
    monkeypatch.setattr(parallel, "check_batch_size", lambda *sizes: None)
    with pytest.raises(ValueError, match=r"mesh.tensor=2 needs a network that says .*set mesh.tensor=1"):
        broken(mesh__tensor=2).mesh


def test_overrides():
    config = base.get_config()
    apply_override(config, "sampling.grid.num_steps=7")
    apply_override(config, "sde={'name': 've', 'sigma_max': 10.0}")
    assert config.sampling.grid.num_steps == 7 and config.sde.to_dict() == {"name": "ve", "sigma_max": 10.0}
    for text, message in (
        ("sampling.grid.num_steps", r"An override needs FIELD=VALUE, as .*, got 'sampling.grid.num_steps'"),
        (
            "sampling.grid.num_stpes=7",
            r"sampling.grid has the unknown field 'num_stpes'; 'uniform' takes .*'num_steps'\?",
        ),
        ("nothing.x=1", r"A config has no section 'nothing'; it has \["),
        ("seed.x=1", r"config.seed is not a section and has no fields; set seed itself"),
        ("sampling.grid.num_steps=ten", r"sampling.grid.num_steps needs a whole number, got 'ten'"),
        ("sampling.grid=unifrom", r"sampling.grid.name needs one of .*, got 'unifrom'. Did you mean 'uniform'\?"),
    ):
        with pytest.raises(ValueError, match=message):
            apply_override(config, text)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("training__num_stps", 7, "config.training has the unknown field 'num_stps'.*Did you mean 'num_steps'"),
        ("ema__half_life", 7, "config.ema has the unknown field 'half_life'.*Did you mean 'half_lives_kimg'"),
        ("likelihood__rtoll", 7, "config.likelihood has the unknown field 'rtoll'.*Did you mean 'rtol'"),
        ("sampling__lable", 7, "config.sampling has the unknown field 'lable'.*Did you mean 'label'"),
        ("data__augment__random_flp", True, "config.data.augment has the unknown field .*Did you mean 'random_flip'"),
        ("data__evl", {}, "config.data has the unknown field 'evl'.*Did you mean 'eval'"),
        (
            "optimizer__learning_rat",
            1.0,
            "config.optimizer has the unknown .*'adam' takes .*Did you mean 'learning_rate'",
        ),
        ("optimizer__schedule__warmup", 1, "config.optimizer.schedule has the unknown .*Did you mean 'warmup_steps'"),
        ("optimizer__name", "adm", "optimizer.name needs one of .*got 'adm'. Did you mean 'adam'"),
        ("network", {"name": "mlp", "widht": 3}, r"takes \['width', 'depth',.*'dtype'\]. Did you mean 'width'"),
        ("training__num_steps", -5, "config.training.num_steps needs a whole number >= 1, got -5"),
        ("training__log_every", 0, "config.training.log_every needs a whole number >= 1, got 0"),
        ("training__eval_levels", 0, "config.training.eval_levels needs a whole number >= 1, got 0"),
        ("training__batch_size", 0, "config.training.batch_size needs a whole number >= 1, got 0"),
        ("training__keep_every", 0, "config.training.keep_every needs a whole number >= 1 or None, got 0"),
        ("ema__half_lives_kimg", (-3.0,), r"config.ema.half_lives_kimg needs different numbers > 0, .*, got \(-3.0,\)"),
        ("ema__half_lives_kimg", (50.0, 50), r"config.ema.half_lives_kimg needs different numbers > 0"),
        ("optimizer__learning_rate", -1.0, "optimizer.learning_rate needs a number > 0, got -1.0"),
        ("optimizer__clip_norm", 0.0, "optimizer.clip_norm needs a number > 0, or None not to clip, got 0.0"),
        ("likelihood__atol", 0.0, "config.likelihood.atol needs a number > 0, got 0.0"),
        ("data__augment__crop", 8, r"config.data.augment.crop needs one size for each spatial axis, as .*, got 8"),
        ("sde", "vp", "config.sde needs a section with a name, as .*, got 'vp'; the names are"),
        ("training", "long", r"config.training needs a section with the fields \['num_steps'.*, got 'long'"),
        ("optimizer", "adam", r"config.optimizer needs a section with the fields \['name', .*, got 'adam'"),
        ("objective__weighting", "edm", "config.objective.weighting needs a section with a name, .*, got 'edm'"),
        ("optimizer__schedule", "cosine", "config.optimizer.schedule needs a section with the fields .*, got 'cosine'"),
        ("seed", None, "config.seed needs a whole number >= 0, got None"),
    ],
)
def test_what_no_config_can_be_is_told_when_it_is_read(path, value, message):
    with pytest.raises(ValueError, match=message):
        broken(**{path: value})


def test_what_is_missing_is_named():
    """A section, or a field that has no default; all others have one."""
    config = base.get_config()
    del config.sampling["solver"]
    with pytest.raises(
        ValueError, match=r"config.sampling: it cannot be built without the fields \['solver'\], got only"
    ):
        Experiment(config)
    del config["seed"]
    with pytest.raises(ValueError, match=r"needs the sections .* and a seed; missing \['seed'\]"):
        Experiment(config)


def test_fields_that_came_later_need_not_be_there():
    """As in the config.json of an older run; and left out or given as it would be, a field is the same."""
    config, older = base.get_config(), base.get_config()
    for section, names in {
        "training": (
            "eval_every",
            "eval_levels",
            "sample_every",
            "keep_checkpoints",
            "keep_every",
            "nonfinite",
            "max_skips",
        ),
        "sampling": ("num_preview",),
        "network": ("num_classes", "embedding_dim", "remat"),
        "optimizer": ("accumulation_steps",),
    }.items():
        for name in names:
            del older[section][name]

    def network(config):
        return completed(Experiment(config).resolved, CATALOGUES)["network"]

    assert network(older) == network(config)
    older.network.dropout = 0.0
    assert network(older) != network(config)


def run(*arguments):
    """What an entry point says, in lines."""
    command = [sys.executable, "-m", f"experiments.{arguments[0]}", *arguments[1:]]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=CONFIGS.parent)
    assert result.returncode != 0
    return [line for line in result.stderr.splitlines() if not line.startswith(("WARNING", "I0000", "W0000"))]


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("program", "arguments", "message"),
    [
        (
            "quickstart",
            ["--config.training.num_stps=3"],
            r"config.training has the unknown field 'num_stps'; .*'num_steps'\?",
        ),  # its own config
        (
            "train",
            ["--config=configs/density2d.py", "--config.ema.half_life=3"],
            r"config.ema has the unknown field 'half_life'; .*'half_lives_kimg'\?",
        ),
        (
            "train",
            ["--config", "configs/quickstrt.py"],
            r"--config needs FILE.py.*'configs/quickstrt.py'; .*'configs/quickstart.py'\?",
        ),
        ("train", ["--config=configs/quickstart.py:foo"], r"quickstart has the variants \['cosine', .*got 'foo'"),
        ("train", ["--config=configs/folder.py:foo"], r"configs/folder.py has no variants, got 'foo'; drop it"),
        ("train", ["--config=configs/__init__.py"], r"--config needs a file with a function get_config\(\)"),
    ],
)
def test_a_mistake_in_the_flags_is_one_line_before_jax_is_loaded(program, arguments, message, tmp_path, monkeypatch):
    (tmp_path / "jax.py").write_text("raise SystemExit('JAX was loaded')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (line,) = run(program, f"--workdir={tmp_path / 'run'}", *arguments)
    assert re.match(f"Error: {message}", line), line


def test_a_mistake_in_a_config_file_is_one_line(tmp_path):
    """And nothing is left in the workdir."""
    (tmp_path / "mine.py").write_text(
        "from configs import density2d\n"
        "def get_config(variant):\n"
        "    config = density2d.get_config('moon' if variant == 'moon' else 'moons')\n"
        "    if variant == 'typo':\n"
        "        config.training['num_stps'] = 3\n"
        "    return config\n"
    )
    for variant, message in (
        ("typo", "config.training has the unknown field 'num_stps'"),
        ("moon", "DensitySource needs a"),
    ):
        lines = run("train", f"--config={tmp_path}/mine.py:{variant}", f"--workdir={tmp_path / 'run'}")
        assert re.match(f"Error: {message}", lines[0]) and lines[1:] == ["(--verbosity=1 shows where.)"], lines
    assert not (tmp_path / "run").exists()


def test_which_errors_are_a_users():
    solver = Adaptive(max_steps=1)
    solution = solver.solve(lambda t, y: -50 * y, jnp.ones((2, 3)), jnp.asarray(0.0), jnp.asarray(1.0))
    with pytest.raises(RuntimeError) as error:
        solver.raise_if(solution.failed)
    sentence = sentence_of(error.value)
    assert re.fullmatch(r"Adaptive did not reach the end for 2 of 2 images within max_steps=1 .*network\.", sentence)
    assert sentence_of(ValueError("x")) == "x"
    assert sentence_of(RuntimeError("a bug")) is None and sentence_of(TypeError("a bug")) is None
