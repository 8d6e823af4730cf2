"""Members of every kind from a file outside of the package: "module:attribute" in a config."""

import pathlib
import re
import shlex
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import base, density2d
from experiments.flags import ConfigFlag
from score_sde.catalogues import CATALOGUES
from score_sde.config import apply_overrides, load_config, plain
from score_sde.experiment import Experiment
from score_sde.run_config import from_workdir, write_config

OWN = '''
"""One member of every kind, each a little different from ours."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import score_sde as ss
from score_sde.data import DataSpec, Source
from score_sde.latents import Identity
from score_sde.likelihood import ExactTrace, Hutchinson
from score_sde.objectives import DenoisingScoreMatching, SigmaSquared, TimeSampler, Uniform, Weighting
from score_sde.denoising.parameterizations import Epsilon, NoiseLabel, TimeLabel
from score_sde.internal.pytree import pytree
from score_sde.solvers import DDIM, Solver
from score_sde.solvers.grids import Uniform as UniformGrid
from score_sde.guidance import Threshold
from score_sde.tasks import Denoising


@pytree
class CubicVP(ss.SDE):
    """α² = exp(−b t³).

    Attributes:
      b: the rate.
    """

    b: float = 11.0

    def log_alpha(self, t):
        return -0.5 * self.b * t**3

    def sigma(self, t):
        return jnp.sqrt(-jnp.expm1(2 * self.log_alpha(t)))


@pytree
class Half(Weighting):
    of: Weighting = SigmaSquared()

    def __call__(self, sde, t):
        return 0.5 * self.of(sde, t)


class Tiny(nn.Module):
    width: int = 4

    @nn.compact
    def __call__(self, x, noise_label, condition=None, train=False):
        return nn.Dense(x.shape[-1])(nn.tanh(nn.Dense(self.width)(x) + noise_label[:, None]))


class Zeros(Source):
    def __init__(self, number: int = 8):
        self.spec, self._number = DataSpec(shape=(2,)), number

    def __len__(self):
        return self._number

    def gather(self, indices):
        return {"x": np.zeros((len(indices), 2), np.float32)}


def short_grid(num_steps: int = 3) -> UniformGrid:
    return UniformGrid(num_steps=num_steps)


def not_a_grid():
    return DDIM()


number = 3
'''
# Where ours of the same kind will do, imported through the user's module.
KINDS = {
    "sde": ("CubicVP", {"b": 9}),
    "parameterization": ("Epsilon", {"noise_label": {"name": "mine.models:TimeLabel", "scale": 5.0}}),
    "network": ("Tiny", {"width": 2}),
    "objective": ("DenoisingScoreMatching", {"weighting": {"name": "mine.models:Half", "of": {"name": "likelihood"}}}),
    "objective.time_sampler": ("Uniform", {"t_min": 0.01}),
    "data.train": ("Zeros", {"number": 5}),
    "sampling.solver": ("DDIM", {"eta": 0.5}),
    "sampling.grid": ("short_grid", {"num_steps": 4}),
    "sampling.threshold": ("Threshold", {"limit": 2.0}),
    "sampling.guidance": ("Threshold", {"limit": 2.0}),
    "task": ("Denoising", {"condition_dropout": 0.0}),
    "likelihood.divergence": ("Hutchinson", {"num_probes": 2}),
    "codec": ("Identity", {}),
}


@pytest.fixture(scope="module", autouse=True)
def mine(tmp_path_factory):
    """A folder from which Python imports, as the working folder of a command."""
    folder = tmp_path_factory.mktemp("outside")
    files = {
        "mine/models.py": OWN,
        "mine/broken.py": "import no_such_package\n",
        "mine/typo.py": "def f(:\n",
        "mine/fails.py": "x = 1 + 'a'\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]


def config_with(path, section):
    config = density2d.get_config()
    *parents, field = path.split(".")
    at = config
    for name in parents:
        at = at[name]
    at[field] = (section,) if path == "sampling.guidance" else ConfigDict(section)
    return config


@pytest.mark.parametrize("path", KINDS)
def test_every_kind_of_section_takes_a_class_from_outside(path):
    name, fields = KINDS[path]
    experiment = Experiment(config_with(path, {"name": f"mine.models:{name}", **fields}))
    objects = {
        "sde": lambda: experiment.sde.b == 9,
        "parameterization": lambda: experiment.parameterization.noise_label.scale == 5.0,
        "network": lambda: experiment.denoiser.network.width == 2,
        "objective": lambda: type(experiment.objective.weighting.of).__name__ == "Likelihood",
        "objective.time_sampler": lambda: experiment.objective.time_sampler.t_min == 0.01,
        "data.train": lambda: len(experiment.train_source) == 5,
        "sampling.solver": lambda: experiment.solver.eta == 0.5,
        "sampling.grid": lambda: len(experiment.grid.times(experiment.sde)) == 5,
        "sampling.threshold": lambda: experiment.guidance[-1].limit == 2.0,
        "sampling.guidance": lambda: experiment.guidance[0].limit == 2.0,
        "task": lambda: experiment.task.condition_dropout == 0.0,
        "likelihood.divergence": lambda: experiment.log_prob.divergence.num_probes == 2,
        "codec": lambda: experiment.codec.is_identity,
    }
    assert objects[path]()


def test_no_kind_is_left_out():
    covered = {id(CATALOGUES.at[path]) for path in KINDS if path in CATALOGUES.at}
    assert {path for path, family in CATALOGUES.at.items() if id(family) not in covered} == {"optimizer"}


def test_an_own_sde_runs_through_everything(tmp_path):
    """Its config.json is read again, and its fields are checked and documented like ours."""
    config = config_with("sde", {"name": "mine.models:CubicVP", "b": 9})
    config.network = ConfigDict({"name": "mine.models:Tiny"})
    experiment = Experiment(config)
    write_config(experiment, tmp_path)
    again = from_workdir(tmp_path, ["sde.b=1e1"])
    assert again.sde.b == 10 and plain(again.config)["sde"]["name"] == "mine.models:CubicVP"
    state = again.recipe.init_state()
    x = again.generator(jax.random.key(0), state.params, 4).x
    assert x.shape == (4, 2) and np.isfinite(x).all()
    np.testing.assert_allclose(again.sde.alpha(jnp.asarray(0.5)), np.exp(-0.5 * 10 * 0.125), rtol=1e-6)
    with pytest.raises(ValueError, match=r"config.sde has the unknown field 'c'; 'mine.models:CubicVP' takes \['b'\]"):
        Experiment(config_with("sde", {"name": "mine.models:CubicVP", "c": 9}))
    with pytest.raises(ValueError, match=r"config.sde.b needs a number, got 'x'"):
        Experiment(config_with("sde", {"name": "mine.models:CubicVP", "b": "x"}))


@pytest.mark.parametrize(
    ("path", "name", "message"),
    [
        ("sde", "mine.modles:CubicVP", r"there is no module 'mine.modles'; modules are looked .*'mine.models'\?"),
        ("sde", "mien.models:CubicVP", r"config.sde.name=mien.models:CubicVP: there is no module 'mien'; modules are"),
        (
            "sde",
            "mine.models:CubicVPP",
            r"mine.models has no 'CubicVPP'; its classes of .* are \['CubicVP'\].*'CubicVP'\?",
        ),
        ("sde", "mine.models:Half", r"config.sde.name=mine.models:Half needs a subclass of score_sde.sdes.SDE, .*Half"),
        ("sde", "mine.models:number", r"needs a subclass of score_sde.sdes.SDE, or a function that makes one, got 3"),
        ("sde", "mine.broken:X", r"importing mine.broken failed: No module named 'no_such_package'"),
        ("sde", "mine.typo:X", r"importing 'mine.typo' failed: SyntaxError: "),
        ("sde", "mine.fails:X", r"importing 'mine.fails' failed: TypeError: unsupported operand"),
        (
            "sde",
            "cubic",
            r"config.sde.name needs one of \['cosine', .*\], or module:attribute of your own, got 'cubic'",
        ),
        ("network", "mine.models:CubicVP", r"config.network.name=.* needs a subclass of flax.linen.module.Module, or"),
    ],
)
def test_what_cannot_be_found_is_a_sentence(path, name, message):
    with pytest.raises(ValueError, match=message):
        Experiment(config_with(path, {"name": name}))


def test_a_function_that_makes_something_else():
    experiment = Experiment(config_with("sampling.grid", {"name": "mine.models:not_a_grid"}))
    with pytest.raises(
        ValueError, match=r"config.sampling.grid.name=mine.models:not_a_grid needs to make a Grid, got DDIM"
    ):
        experiment.grid


def test_optimizers_are_those_of_optax():
    config = base.get_config()
    config.optimizer.name = "optax:adam"
    with pytest.raises(
        ValueError, match=r"config.optimizer.name needs one of \['adam', [^:]*, got 'optax:adam'"
    ) as error:
        Experiment(config)
    assert not re.search("module:attribute", str(error.value))


def test_the_file_in_the_readme(tmp_path, monkeypatch):
    """As it stands there, with its command."""
    text = (pathlib.Path(__file__).parent.parent.parent / "README.md").read_text(encoding="utf-8")
    section = text.partition("## Your own SDE\n")[2].partition("\n## ")[0]
    code, command = (
        re.search(r"```python\n(.*?)```", section, re.DOTALL)[1],
        re.search(r"```bash\n(.*?)```", section, re.DOTALL)[1],
    )
    (tmp_path / "my_project").mkdir()
    (tmp_path / "my_project" / "sdes.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    flag = ConfigFlag(None)
    (config_flag,) = [word for word in flag.split(shlex.split(command)) if word.startswith("--config=")]
    config = load_config(config_flag.removeprefix("--config="))
    apply_overrides(config, flag._overrides, CATALOGUES)
    sde = Experiment(config).sde
    assert type(sde).__module__ == "my_project.sdes" and sde.b == 9
    np.testing.assert_allclose(sde.sigma(jnp.asarray(1.0)) ** 2, 1 - np.exp(-9), rtol=1e-6)
