"""The sub-VP SDE: the drift of the VP SDE, with less noise."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.internal.pytree import pytree
from score_sde.sdes.base import SDE, Scalar, Time, require


@pytree
class SubVP(SDE):
    """α² = exp(−∫₀ᵗ β), σ = 1 − α², with β(t) = β_min + t (β_max − β_min) and t in (0, 1].

    Args:
      beta_min: β at t = 0.
      beta_max: β at t = 1.
    Raises: ValueError unless 0 <= beta_min <= beta_max and 0 < beta_max < ∞.
    Source: Song et al., arXiv 2011.13456, Eqs. 12 and 29.
    """

    beta_min: Scalar = 0.1
    beta_max: Scalar = 20.0

    def __post_init__(self):
        valid = 0 <= self.beta_min <= self.beta_max and 0 < self.beta_max < math.inf
        require(valid, "SubVP needs 0 <= beta_min <= beta_max and 0 < beta_max < ∞", self)

    def log_alpha(self, t: Time) -> Float[Array, "*b"]:
        t = jnp.asarray(t)
        return -0.25 * t**2 * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min

    def sigma(self, t: Time) -> Float[Array, "*b"]:
        return -jnp.expm1(2 * self.log_alpha(t))

    def prior_std(self) -> Float[Array, ""]:
        """1, as in the paper."""
        return jnp.ones(())
