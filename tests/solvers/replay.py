"""Replays a solver with recorded noise of another code."""

import functools
import itertools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.denoising.gaussian_mixture import GaussianMixture
from tests.solvers.draws import replace_noise

GOLDEN = pathlib.Path(__file__).parent.parent / "golden" / "solvers"


def load(name):
    """(arrays, what was recorded about them)."""
    arrays = dict(np.load(GOLDEN / name))
    return arrays, json.loads(str(arrays.pop("__meta__")))


def mixture(arrays, name="m2"):
    return GaussianMixture(*(jnp.asarray(arrays[f"{name}_mix_{part}"]) for part in ("w", "mu", "sd")))


@functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
def step(solver, denoise, x, t, s, carry, draws):
    """`solver.step`, (x, carry, evaluations), whose nth draw is draws[n]."""
    left = iter(draws)
    with pytest.MonkeyPatch.context() as patch:
        replace_noise(patch, lambda key, x: next(left))
        return solver.step(jax.random.key(0), denoise, x, t, s, carry)


def solve(solver, denoise, x, times, draws=None):
    """The states after each step, [n, b, d], and the number of evaluations. `draws` is one array a step, or None."""
    carry = solver.init(jnp.asarray(x), len(times) - 1)
    states, evaluations = [], 0
    for k, (t, s) in enumerate(itertools.pairwise(times)):
        given = [np.zeros_like(x) if draws is None else draws[k]]
        x, carry, made = step(solver, denoise, jnp.asarray(x), jnp.asarray(t), jnp.asarray(s), carry, given)
        states.append(np.asarray(x))
        evaluations += int(made)
    return np.stack(states), evaluations
