"""The one rule by which a time coefficient is broadcast over a batch."""

import jax.numpy as jnp
from jaxtyping import Array, Shaped


def expand_like(coefficient: Shaped[Array, "*b"] | float, x: Shaped[Array, "b *shape"]) -> Shaped[Array, "..."]:
    """A scalar or `[b]` coefficient with trailing axes of length one, so that it multiplies `x` example by example."""
    coefficient = jnp.asarray(coefficient)
    return coefficient if coefficient.ndim == 0 else coefficient.reshape(coefficient.shape + (1,) * (x.ndim - 1))
