"""The variance-exploding SDE with σ as its time."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.internal.pytree import pytree
from score_sde.sdes.base import SDE, Scalar, Time, require


@pytree
class EDM(SDE):
    """α = 1, σ = t, t in (0, sigma_max].

    Args:
      sigma_max: t_max, the noise level of the prior.
    Raises: ValueError unless 0 < sigma_max < ∞.
    Source: Karras et al., arXiv 2206.00364, Table 1, last column.
    """

    sigma_max: Scalar = 80.0

    def __post_init__(self):
        require(0 < self.sigma_max < math.inf, "EDM needs 0 < sigma_max < ∞", self)

    @property
    def t_max(self) -> Scalar:  # type: ignore[override]  # a class constant elsewhere
        return self.sigma_max

    def log_alpha(self, t: Time) -> Float[Array, "*b"]:
        return jnp.zeros_like(jnp.asarray(t))

    def sigma(self, t: Time) -> Float[Array, "*b"]:
        return jnp.asarray(t)

    def time_of_log_snr(self, log_snr: Time) -> Float[Array, "*b"]:
        """t = exp(−λ/2)."""
        return jnp.exp(-0.5 * jnp.asarray(log_snr))
