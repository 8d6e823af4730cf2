"""DPM2 of k-diffusion: the midpoint rule, with the midpoint in log σ."""

from typing import Any

import jax
import jax.numpy as jnp

from score_sde.denoising.dynamics import Denoise
from score_sde.internal.pytree import pytree
from score_sde.solvers.base import Batch, Keys, Scalar, Solver, Step
from score_sde.solvers.integrators import ddim, rise, transfer
from score_sde.solvers.ode.dpm_solver import inner_time


@pytree
class DPM2(Solver):
    """x_s = α_s (x/α_t + (τ_s − τ_t) ε̂(x_m, m)), with τ = σ/α, log τ_m halfway and x_m by DDIM.

    DPM-Solver-2 evaluates at the same point, but weighs ε̂ there by the exponential. A step to σ(s)
    = 0 is a DDIM step, with one evaluation.

    Error: order 2 in steps of log τ.
    Source: k-diffusion's sample_dpm_2, after arXiv 2206.00364, Algorithm 2.
    """

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        sde = denoise.sde
        estimate, h = denoise(x, t), rise(sde, t, s)
        base, time = ddim(sde, estimate, s), inner_time(sde, t, h, 0.5)

        def midpoint():
            difference = denoise(ddim(sde, estimate, time), time).eps - estimate.eps
            return base + transfer(sde, t, s) * difference

        # Where σ(s) = 0 or α(t) = 0, h is infinite and there is no midpoint.
        possible = jnp.isfinite(h)
        evaluations = denoise.evaluations(t) + jnp.where(possible, denoise.evaluations(time), 0)
        return jax.lax.cond(possible, midpoint, lambda: base), carry, evaluations
