"""The one rule by which a coefficient of time meets a batch."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def expand_like(coefficient: Float[Array, "*b"] | float, x: Float[Array, "b *shape"]) -> Float[Array, "..."]:
    """Gives a scalar or a `[b]` coefficient trailing axes of length one, so that it multiplies `x` per example."""
    coefficient = jnp.asarray(coefficient)
    return coefficient if coefficient.ndim == 0 else coefficient.reshape(coefficient.shape + (1,) * (x.ndim - 1))
