"""Rectified flow: the straight line from data to noise."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.internal.pytree import pytree
from score_sde.sdes.base import SDE, Time


@pytree
class Flow(SDE):
    """α = 1 − t, σ = t, t in (0, 1].

    At t = 1, α is 0. There f and g are infinite, but the probability flow and the transitions are
    finite. Time runs from data to noise; the flow-matching papers often run it the other way.

    Source: Liu et al., arXiv 2209.03003, Eq. 1; Lipman et al., arXiv 2210.02747, Sec. 4.1 with
      σ_min = 0.
    """

    def log_alpha(self, t: Time) -> Float[Array, "*b"]:
        return jnp.log1p(-jnp.asarray(t))

    def sigma(self, t: Time) -> Float[Array, "*b"]:
        return jnp.asarray(t)

    def alpha(self, t: Time) -> Float[Array, "*b"]:
        """1 − t. Computed through log α, the derivative at t = 1 would be 0 · ∞."""
        return 1 - jnp.asarray(t)

    def time_of_log_snr(self, log_snr: Time) -> Float[Array, "*b"]:
        """t = 1/(1 + e^(λ/2))."""
        return 1 / (1 + jnp.exp(0.5 * jnp.asarray(log_snr)))
