"""The cosine schedule in continuous time."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.internal.pytree import pytree
from score_sde.sdes.base import SDE, Scalar, Time, require


@pytree
class Cosine(SDE):
    """α = cos(a_t)/cos(a_0), σ² = 1 − α², with a_t = (π/2)(t + offset)/(1 + offset), t in (0, 1].

    offset = 0 is α = cos(πt/2), σ = sin(πt/2). iDDPM's discrete schedule uses offset = 0.008. At t
    = 1, α is 0. There f and g are infinite, but the probability flow and the transitions are
    finite.

    Args:
      offset: a small number that keeps the first noise levels from being too small.
    Raises: ValueError unless 0 <= offset < ∞.
    Source: Nichol & Dhariwal, arXiv 2102.09672, Eq. 17, without the clipping of β.
    """

    offset: Scalar = 0.0

    def __post_init__(self):
        require(0 <= self.offset < math.inf, "Cosine needs 0 <= offset < ∞", self)

    def alpha(self, t: Time) -> Float[Array, "*b"]:
        """cos(a_t)/cos(a_0), computed as the sine of the complement, which is exactly 0 at t = 1."""
        t, quarter = jnp.asarray(t), 0.5 * jnp.pi / (1 + self.offset)
        cosine = jnp.where(t < 0.5, jnp.cos(quarter * (t + self.offset)), jnp.sin(quarter * (1 - t)))
        return cosine / jnp.cos(quarter * self.offset)

    def log_alpha(self, t: Time) -> Float[Array, "*b"]:
        return jnp.log(self.alpha(t))

    def sigma(self, t: Time) -> Float[Array, "*b"]:
        """√(sin(a_t − a_0) sin(a_t + a_0))/cos(a_0): equal to √(1 − α²), but without cancellation."""
        t, quarter = jnp.asarray(t), 0.5 * jnp.pi / (1 + self.offset)
        product = jnp.sin(quarter * t) * jnp.sin(quarter * (t + 2 * self.offset))
        return jnp.sqrt(product) / jnp.cos(quarter * self.offset)
