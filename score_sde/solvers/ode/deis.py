"""DEIS: the exponential integrator with a polynomial in time through the previous noise estimates."""

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
    """x_s = α_s (x/α_t + ∫ P(t) dτ), with τ = σ/α and P the polynomial through the last `order` ε̂.

    `variable` is the variable of the polynomial. "t" is the paper's tAB: its integral over τ is
    taken by Gauss–Legendre quadrature with 16 nodes. "rho" (the variable τ) is ρAB and "log_rho" is
    logρAB (diffusers'); both integrals are exact. The first steps have lower order. In a solve of
    fewer than `lower_order_below` steps, the last steps have lower order too.

    Args:
      variable: the variable of the polynomial: "t", "rho" or "log_rho".
      lower_order_below: solves of fewer steps have lower order at the end.
      order: the number of ε̂, one more than the degree of P. The paper's tAB3 is order 4.
    Error: `order`, in steps of the variable.
    Raises: ValueError for order < 1 or an unknown variable.
    Source: Zhang & Chen, arXiv 2204.13902, Eqs. 14–15 and App. B.
    """

    order: int = static(default=4)
    variable: str = static(default="t")
    lower_order_below: Count = 0

    def __post_init__(self):
        require_one_of("variable", self.variable, ("t", "rho", "log_rho"), self)
        AdamsBashforth(self.order)  # checks the order

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
        # The quadrature nodes are values of τ. Each is mapped back to its time.
        ratio = sde.sigma(t) / sde.alpha(t) + nodes * length / sde.alpha(s)
        fractions = (sde.time_of_log_snr(-2 * jnp.log(ratio)) - t) / (s - t)
        return length * (jnp.stack([fractions**k for k in range(self.order)]) @ weights)
