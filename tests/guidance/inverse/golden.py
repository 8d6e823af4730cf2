"""The numbers of other people's code for inverse problems, and their noise schedules."""

import functools
import itertools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

from score_sde.denoising.gaussian_mixture import GaussianMixture
from score_sde.guidance import operators as ops
from score_sde.internal.pytree import pytree, static
from score_sde.sdes.base import SDE, Time
from tests.solvers.draws import replace_noise

FOLDER = pathlib.Path(__file__).parents[2] / "golden" / "inverse"


def load(name):
    """(arrays, cases)."""
    arrays = dict(np.load(FOLDER / f"{name}.npz"))
    return arrays, json.loads(str(arrays.pop("__meta__")))["cases"]


def mixture(arrays, name):
    return GaussianMixture(*(jnp.asarray(arrays[f"{name}_mix_{part}"]) for part in ("w", "mu", "sd")))


def problem(arrays, name, rows=slice(None)):
    """(operator, σ_y, y) of a problem such as "m2/rand"."""
    matrix, noise_std, y = (jnp.asarray(arrays[f"prob/{name}/{part}"]) for part in ("A", "sigma_y", "y"))
    return ops.Matrix(matrix), float(noise_std), y[rows]


@pytree
class Azula(SDE):
    """azula's schedules; those that its code calls VP and rectified."""

    kind: str = static(default="vp")

    def log_alpha(self, t: Time) -> Float[Array, "*b"]:
        t = jnp.asarray(t)
        return t**2 * np.log(1e-3) if self.kind == "vp" else jnp.log1p(-t * (1 - 1e-3))

    def sigma(self, t: Time) -> Float[Array, "*b"]:
        t = jnp.asarray(t)
        if self.kind == "vp":
            return jnp.sqrt(-jnp.expm1(2 * self.log_alpha(t)) + 1e-6)
        return 1e-3 + t * (1 - 1e-3)


@pytree
class Table(SDE):
    """α² by a table: time 0 is the data, and time i + 1 the model's timestep i."""

    squares: Float[Array, " n"]

    def log_alpha(self, t: Time) -> Float[Array, "*b"]:
        return 0.5 * jnp.log(self._square(t))

    def sigma(self, t: Time) -> Float[Array, "*b"]:
        return jnp.sqrt(1 - self._square(t))

    def _square(self, t):
        table = jnp.concatenate([jnp.ones_like(self.squares[:1]), self.squares])
        return table[jnp.round(jnp.asarray(t)).astype(jnp.int32)]


@functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
def step(solver, denoise, x, t, s, carry, draws):
    """`solver.step`, whose nth draw is draws[n]; the rest are not used."""
    left = iter(draws)
    with pytest.MonkeyPatch.context() as patch:
        replace_noise(patch, lambda key, x: next(left).reshape(x.shape))
        return solver.step(jax.random.key(0), denoise, x, t, s, carry)


def states(solver, denoise, x, times, draws, carry=None):
    """The states after each step; draws[k] are those of step k, in the order in which it draws."""
    x = jnp.asarray(x)
    carry = solver.init(x, len(times) - 1) if carry is None else carry
    found = []
    for k, (t, s) in enumerate(itertools.pairwise(times)):
        given = [jnp.asarray(draw) for draw in draws[k]]
        x, carry, _ = step(solver, denoise, x, jnp.asarray(t), jnp.asarray(s), carry, given)
        found.append(np.asarray(x))
    return np.stack(found)


def close(found, expected, tolerance=1e-10, name=""):
    scale = 1 + np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale, err_msg=name)
