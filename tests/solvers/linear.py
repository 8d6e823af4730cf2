"""Exact moments of a solver's result on Gaussian data, also for solvers with a history, and their strong error.

For scalar data N(m, s²) the end of a solve is linear: x_n = A x_0 + b + Σ_k Σ_d c_kd z_kd. One
batch measures all: a lane for x_0 = 0, a lane for x_0 = 1, and a lane for one unit of each draw.
`affine` composes steps and needs no lanes, but it cannot treat a history.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.denoising.gaussian_mixture import ExactDenoise, GaussianMixture
from tests.solvers.draws import replace_noise

DRAWS = 3  # the most that a step makes
LANES = 2 + DRAWS * 80  # at most 80 steps


def moments(solver, sde, data, times):
    """(mean, variance) at the last time, from exactly p_t at the first."""
    steps = len(times) - 1
    alpha, sigma = (float(v) for v in sde.marginal(jnp.asarray(times[0])))
    ends = np.asarray(_ends(solver, sde, np.asarray(data), np.pad(times, (0, 81 - len(times)), mode="edge"), steps))
    base, slope, gains = ends[0], ends[1] - ends[0], ends[2:] - ends[0]
    mean = slope * alpha * data[0] + base
    return mean, slope**2 * ((alpha * data[1]) ** 2 + sigma**2) + np.sum(gains**2)


def error(solver, sde, data, times):
    """The error of (mean, standard deviation) at the last time, in standard deviations there."""
    mean, variance = moments(solver, sde, data, times)
    alpha, sigma = (float(v) for v in sde.marginal(jnp.asarray(times[-1])))
    exact = np.sqrt((alpha * data[1]) ** 2 + sigma**2)
    return float(np.hypot((mean - alpha * data[0]) / exact, np.sqrt(variance) / exact - 1))


@functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
def _ends(solver, sde, data, times, steps):
    structure = jax.tree.structure(GaussianMixture(*(jnp.ones(shape) for shape in ((1,), (1, 1), (1, 1)))))
    mixture = jax.tree.unflatten(structure, (jnp.ones_like(data[:1]), data[:1, None], data[1:, None]))
    x = jnp.zeros((LANES, 1), times.dtype).at[1].set(1.0)

    def body(k, state):
        x, carry = state
        drawn = 0

        def one_lane_each(key, x):
            nonlocal drawn
            drawn += 1
            assert drawn <= DRAWS
            return jnp.zeros_like(x).at[DRAWS * k + 1 + drawn].set(1.0)

        with pytest.MonkeyPatch.context() as patch:
            replace_noise(patch, one_lane_each)
            return solver.step(jax.random.key(0), ExactDenoise(mixture, sde), x, times[k], times[k + 1], carry)[:2]

    return jax.lax.fori_loop(0, steps, body, (x, solver.init(x, steps)))[0][:, 0]
