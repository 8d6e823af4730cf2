"""Exact moments of what a solver draws, without drawing: for Gaussian data a step is x' = A x + b + Σ_j c_j z_j.

With x ~ N(m, V) and independent z_j ~ N(0, 1), x' has mean A m + b and variance A² V + Σ_j c_j². A, b and c_j are read off
by stepping from x = 0 and x = 1 without noise and from x = 0 with one unit of each noise that the step draws.
"""

import functools

import jax
import jax.numpy as jnp
import pytest

from score_sde.analytic import ExactDenoise, GaussianMixture
from score_sde.solvers import noise

DRAWS = 3  # more than any step makes


@functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
def moments(solver, sde, data, times, num_steps):
    """(mean, variance) at the last time, from exactly p_t at the first, of scalar data N(data[0], data[1]²)."""
    mixture = jax.tree.unflatten(
        jax.tree.structure(GaussianMixture(*(jnp.ones(s) for s in ((1,), (1, 1), (1, 1))))),
        (jnp.ones(1, times.dtype), data[0].reshape(1, 1), data[1].reshape(1, 1)),
    )
    denoise = ExactDenoise(mixture, sde)
    x = jnp.zeros((2 + DRAWS, 1), times.dtype).at[1].set(1.0)
    alpha, sigma = sde.marginal(times[0])
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
        y, carry = solver.step(jax.random.key(0), sde, denoise, x, times[k], times[k + 1], carry)
        base, slope, gains = y[0, 0], y[1, 0] - y[0, 0], y[2:, 0] - y[0, 0]
        return slope * mean + base, slope**2 * variance + jnp.sum(gains**2), carry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(noise, "standard_normal", one_lane_each)
        state = alpha * data[0], (alpha * data[1]) ** 2 + sigma**2, solver.init(x, num_steps)
        mean, variance, _ = jax.lax.fori_loop(0, num_steps, body, state)
    return mean, variance
