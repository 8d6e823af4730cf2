"""The straight line from data to noise, at a speed that decays."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.internal.pytree import pytree
from score_sde.sdes.base import SDE, Scalar, Time, require


@pytree
class Decay(SDE):
    """α = (γ^t − γ)/(1 − γ), σ = 1 − α, t in (0, 1].

    This is `Flow` with another time: fast at the data, slow at the noise. In the limit γ → 1 it is
    `Flow`. At t = 1, α is 0, with the same consequences as for `Flow`.

    Args:
      gamma: γ. The smaller it is, the faster α falls near the data.
    Raises: ValueError unless 0 < gamma < 1.
    Source: azula 0.11's decay schedule (γ = 0.1), without its alpha_min and sigma_min.
    """

    gamma: Scalar = 0.1

    def __post_init__(self):
        require(0 < self.gamma < 1, "Decay needs 0 < gamma < 1", self)

    def alpha(self, t: Time) -> Float[Array, "*b"]:
        """γ (γ^(t−1) − 1)/(1 − γ): this form keeps its digits near t = 1."""
        return self.gamma * jnp.expm1((jnp.asarray(t) - 1) * jnp.log(self.gamma)) / (1 - self.gamma)

    def log_alpha(self, t: Time) -> Float[Array, "*b"]:
        return jnp.log(self.alpha(t))

    def sigma(self, t: Time) -> Float[Array, "*b"]:
        return -jnp.expm1(jnp.asarray(t) * jnp.log(self.gamma)) / (1 - self.gamma)

    def time_of_log_snr(self, log_snr: Time) -> Float[Array, "*b"]:
        """t = −log(1 + (1 − γ)/(γ + e^(λ/2)))/log γ.

        This equals log(1 − (1 − γ) σ)/log γ. But JAX 0.10's log1p in float64 is wrong by 40 units
        in the last place near −0.4.
        """
        ratio = (1 - self.gamma) / (self.gamma + jnp.exp(0.5 * jnp.asarray(log_snr)))
        return -jnp.log1p(ratio) / jnp.log(self.gamma)
