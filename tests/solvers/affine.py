"""Exact moments of a solver's result without draws: for Gaussian data a step is x' = A x + b + Σ_j c_j z_j.

With x ~ N(m, V) and independent z_j ~ N(0, 1), x' has mean A m + b and variance A² V + Σ_j c_j². A,
b and c_j are measured by steps from x = 0 and x = 1 without noise, and from x = 0 with one unit of
each noise of the step.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.denoising.gaussian_mixture import ExactDenoise, GaussianMixture
from tests.conformance import SDES
from tests.solvers.chosen import chosen
from tests.solvers.draws import replace_noise

DRAWS = 2  # the most that a step makes
LENGTH = 400  # the most steps


def solve(solver, sde, data, times, ends=None):
    """(mean, variance) at the last time, from exactly p_t at the first; `ends` are the steps' ends if not `times[1:]`."""
    starts, ends = times[:-1], times[1:] if ends is None else ends
    pad = (0, LENGTH - len(starts))
    mean, variance = moments(
        solver, sde, data, np.pad(starts, pad, mode="edge"), np.pad(ends, pad, mode="edge"), len(starts)
    )
    return float(mean), float(variance)


def error(solver, name, data, grid):
    """The error of (mean, standard deviation) at the grid's end, in standard deviations there."""
    sde = SDES[name]
    times = grid.times(sde)
    mean, variance = solve(solver, chosen(name), data, times)
    alpha, sigma = sde.marginal(jnp.asarray(times[-1]))
    exact = np.sqrt((alpha * data[1]) ** 2 + sigma**2)
    return float(np.hypot((mean - alpha * data[0]) / exact, np.sqrt(variance) / exact - 1))


@functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
def moments(solver, sde, data, starts, ends, num_steps):
    """(mean, variance) after steps from starts[k] to ends[k], of scalar data N(data[0], data[1]²)."""
    data = jnp.asarray(data, starts.dtype)
    structure = jax.tree.structure(GaussianMixture(*(jnp.ones(shape) for shape in ((1,), (1, 1), (1, 1)))))
    mixture = jax.tree.unflatten(structure, (jnp.ones_like(data[:1]), data[:1, None], data[1:, None]))
    denoise = ExactDenoise(mixture, sde)
    x = jnp.zeros((2 + DRAWS, 1), starts.dtype).at[1].set(1.0)
    alpha, sigma = sde.marginal(starts[0])
    drawn = 0

    def one_lane_each(key, x):
        nonlocal drawn
        drawn += 1
        assert drawn <= DRAWS
        return jnp.zeros_like(x).at[1 + drawn].set(1.0)

    def body(k, state):
        nonlocal drawn
        drawn = 0
        mean, variance, carry = state
        y, carry, _ = solver.step(jax.random.key(0), denoise, x, starts[k], ends[k], carry)
        base, slope, gains = y[0, 0], y[1, 0] - y[0, 0], y[2:, 0] - y[0, 0]
        return slope * mean + base, slope**2 * variance + jnp.sum(gains**2), carry

    with pytest.MonkeyPatch.context() as patch:
        replace_noise(patch, one_lane_each)
        state = alpha * data[0], (alpha * data[1]) ** 2 + sigma**2, solver.init(x, num_steps)
        mean, variance, _ = jax.lax.fori_loop(0, num_steps, body, state)
    return mean, variance
