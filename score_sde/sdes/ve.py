"""The variance-exploding SDE with geometric noise levels."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.internal.pytree import pytree
from score_sde.sdes.base import SDE, Scalar, Time, require


@pytree
class VE(SDE):
    """α = 1, σ = σ_min (σ_max/σ_min)^t, t in (0, 1].

    σ(0) is σ_min, not 0: x at t = 0 is data with noise of standard deviation σ_min. (In its general
    kernel, Eq. 29, the paper sets σ(0) = 0, so σ jumps to σ_min just after t = 0.) A solve to t = 0
    therefore ends at the noise level σ_min. `DenoiseLast` removes that noise.

    Args:
      sigma_min: σ at t = 0.
      sigma_max: σ at t = 1. A common choice is the largest distance between two examples.
    Raises: ValueError unless 0 < sigma_min < sigma_max < ∞.
    Source: Song et al., arXiv 2011.13456, Eqs. 30–31 (App. C).
    """

    sigma_min: Scalar = 0.01
    sigma_max: Scalar = 50.0

    def __post_init__(self):
        require(0 < self.sigma_min < self.sigma_max < math.inf, "VE needs 0 < sigma_min < sigma_max < ∞", self)

    def log_alpha(self, t: Time) -> Float[Array, "*b"]:
        return jnp.zeros_like(jnp.asarray(t))

    def sigma(self, t: Time) -> Float[Array, "*b"]:
        return self.sigma_min * jnp.exp(jnp.asarray(t) * jnp.log(self.sigma_max / self.sigma_min))

    def time_of_log_snr(self, log_snr: Time) -> Float[Array, "*b"]:
        """t = −(λ/2 + log σ_min) / log(σ_max/σ_min)."""
        return -(0.5 * jnp.asarray(log_snr) + jnp.log(self.sigma_min)) / jnp.log(self.sigma_max / self.sigma_min)
