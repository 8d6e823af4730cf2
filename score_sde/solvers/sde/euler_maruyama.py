"""Euler–Maruyama for the reverse-time SDE."""

from typing import Any

import jax.numpy as jnp

from score_sde.denoising.dynamics import Denoise, reverse_drift
from score_sde.internal.pytree import pytree
from score_sde.solvers import noise
from score_sde.solvers.base import Batch, Keys, Scalar, Solver, Step


@pytree
class EulerMaruyama(Solver):
    """x_s = x − (t − s)(f x − g² ∇ log p_t) + g √(t − s) z, with f and g at t.

    The step is the step of the grid. The 2021 code steps by 1/N on a grid from t_max to ε. The last
    step adds noise too; `DenoiseLast` removes it. f(t) must be finite, so `Flow` and `Cosine` need
    a start below t_max.

    Error: strong and weak order 1 (g does not depend on x), while (t − s) g²/σ² ≪ 1.
    Source: Song et al., arXiv 2011.13456, Eq. 6 and App. E.
    """

    needs_finite_drift = True

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        sde = denoise.sde
        drift = reverse_drift(sde, denoise(x, t), x, t)
        x = x + (s - t) * drift + sde.diffusion(t) * jnp.sqrt(t - s) * noise.like(key, sde, x)
        return x, carry, denoise.evaluations(t)
