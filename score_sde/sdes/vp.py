"""The variance-preserving SDE with β linear in time."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.pytree import pytree
from score_sde.sdes.base import SDE, Scalar, Time, require


@pytree
class VP(SDE):
    """α² = exp(−∫₀ᵗ β), σ² = 1 − α², with β(t) = β_min + t (β_max − β_min) and t in (0, 1].

    Raises: ValueError unless 0 <= beta_min <= beta_max and beta_max > 0.
    Source: Song et al., arXiv 2011.13456, Eqs. 32–33 (App. C); the limit of DDPM with β_i = β(i/N)/N.
    """

    beta_min: Scalar = 0.1
    beta_max: Scalar = 20.0

    def __post_init__(self):
        valid = 0 <= self.beta_min <= self.beta_max and self.beta_max > 0
        require(valid, "VP needs 0 <= beta_min <= beta_max and beta_max > 0", self)

    def log_alpha(self, t: Time) -> Float[Array, "*b"]:
        t = jnp.asarray(t)
        return -0.25 * t**2 * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min

    def sigma(self, t: Time) -> Float[Array, "*b"]:
        return jnp.sqrt(-jnp.expm1(2 * self.log_alpha(t)))

    def time_of_log_snr(self, log_snr: Time) -> Float[Array, "*b"]:
        """Root of the quadratic ½ t² (β_max − β_min) + t β_min = log(1 + e^−λ), in the form that does not cancel.

        Source: Lu et al., arXiv 2206.00927, App. D.4.
        """
        integral = jnp.logaddexp(0.0, -jnp.asarray(log_snr))
        root = jnp.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * integral)
        return 2 * integral / (root + self.beta_min)

    def prior_std(self) -> Float[Array, ""]:
        """1, as in the paper: for data of unit variance p(x at t_max) has exactly this variance."""
        return jnp.ones(())
