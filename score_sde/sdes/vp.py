"""The variance-preserving SDE with β linear in time."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.internal.pytree import pytree
from score_sde.sdes.base import SDE, Scalar, Time, require


@pytree
class VP(SDE):
    """α² = exp(−∫₀ᵗ β), σ² = 1 − α², with β(t) = β_min + t (β_max − β_min) and t in (0, 1].

    Args:
      beta_min: β at t = 0.
      beta_max: β at t = 1.
    Raises: ValueError unless 0 <= beta_min <= beta_max and 0 < beta_max < ∞.
    Source: Song et al., arXiv 2011.13456, Eqs. 32–33 (App. C); the limit of DDPM with β_i =
      β(i/N)/N.
    """

    beta_min: Scalar = 0.1
    beta_max: Scalar = 20.0

    def __post_init__(self):
        valid = 0 <= self.beta_min <= self.beta_max and 0 < self.beta_max < math.inf
        require(valid, "VP needs 0 <= beta_min <= beta_max and 0 < beta_max < ∞", self)

    def log_alpha(self, t: Time) -> Float[Array, "*b"]:
        t = jnp.asarray(t)
        return -0.25 * t**2 * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min

    def sigma(self, t: Time) -> Float[Array, "*b"]:
        return jnp.sqrt(-jnp.expm1(2 * self.log_alpha(t)))

    def time_of_log_snr(self, log_snr: Time) -> Float[Array, "*b"]:
        """The root of ½ t² (β_max − β_min) + t β_min = log(1 + e^−λ), in the form that does not cancel.

        Source: Lu et al., arXiv 2206.00927, App. D.4.
        """
        log_snr = jnp.asarray(log_snr)
        # `root` is the square root of the right side. Past λ = 40 it equals e^(−λ/2), which is computed
        # directly: the right side itself would underflow at λ = 87.
        early = log_snr > 40
        root = jnp.sqrt(jnp.logaddexp(0.0, -jnp.where(early, 0.0, log_snr)))
        root = jnp.where(early, jnp.exp(-0.5 * log_snr), root)
        divisor = jnp.hypot(self.beta_min, jnp.sqrt(2 * (self.beta_max - self.beta_min)) * root) + self.beta_min
        return 2 * root * (root / jnp.where(divisor > 0, divisor, 1.0))  # root and divisor are 0 at λ = ∞

    def prior_std(self) -> Float[Array, ""]:
        """1, as in the paper. For data of unit variance, p(x at t_max) has exactly this variance."""
        return jnp.ones(())
