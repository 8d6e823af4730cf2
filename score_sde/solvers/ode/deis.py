"""DEIS: the exponential integrator with a polynomial in time through the last noise estimates."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.denoising.dynamics import Denoise
from score_sde.internal.pytree import pytree, static
from score_sde.sdes.base import SDE
from score_sde.solvers import history
from score_sde.solvers.base import Batch, Count, Keys, Scalar, Solver, Step
from score_sde.solvers.integrators import ddim, require_one_of, transfer
from score_sde.solvers.ode.adams import AdamsBashforth, ExponentialAdamsBashforth, quadrature


@pytree
class DEIS(Solver):
    """x_s = α_s (x/α_t + ∫ P(t) dτ), τ = σ/α, P the polynomial through the last `order` ε̂.

    `variable` is that of the polynomial: "t" for the paper's tAB, whose integral is taken over τ by Gauss and Legendre with
    16 nodes; "rho" (τ) for ρAB, "log_rho" for logρAB (diffusers'), both exact. The first steps have lower order; so have
    the last ones of a solve of fewer than `lower_order_below` steps.

    Args:
      order: the number of ε̂, one more than the degree: the paper's tAB3 is order 4.
    Error: `order`, in steps of the variable. Raises: ValueError for order < 1 or an unknown variable.
    Source: Zhang & Chen, arXiv 2204.13902, Eqs. 14–15 and App. B.
    """

    order: int = static(default=4)
    variable: str = static(default="t")
    lower_order_below: Count = 0

    def __post_init__(self):
        require_one_of("variable", self.variable, ("t", "rho", "log_rho"), self)
        AdamsBashforth(self.order)  # which checks it

    def init(self, x: Batch, num_steps: Count) -> history.History:
        return history.start(x, max(1, self.order - 1), num_steps)

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        if self.variable != "t":
            family = AdamsBashforth if self.variable == "rho" else ExponentialAdamsBashforth
            return family(self.order, "eps", 1.0, self.lower_order_below).step(key, denoise, x, t, s, carry)
        sde, estimate = denoise.sde, denoise(x, t)
        nodes, gains = (carry.times - t) / (s - t), self._gains(sde, t, s)
        now = carry.order(self.order, self.lower_order_below)
        x, past = history.extrapolate(carry, now, estimate.eps, t, ddim(sde, estimate, s), nodes, gains)
        return x, past, denoise.evaluations(t)

    def _gains(self, sde: SDE, t: Scalar, s: Scalar) -> Float[Array, " n"]:
        """α_s ∫ ((t' − t)/(s − t))^k dτ(t'), k = 0 … order − 1."""
        nodes, weights = quadrature(t.dtype)
        length = transfer(sde, t, s)
        ratio = sde.sigma(t) / sde.alpha(t) + nodes * length / sde.alpha(s)
        fractions = (sde.time_of_log_snr(-2 * jnp.log(ratio)) - t) / (s - t)
        return length * (jnp.stack([fractions**k for k in range(self.order)]) @ weights)
