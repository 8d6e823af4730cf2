"""Standard normal noise, from one key for all examples or from one key for each."""

from typing import Any

import jax
from jaxtyping import Array, Float, Key


def standard_normal(key: Key[Array, "*b"], shape: tuple[Any, ...], dtype: Any = float) -> Float[Array, "b *shape"]:
    """z ~ N(0, I) of `shape`. One key draws all examples jointly, and a `[b]` array of keys draws example by example."""
    if key.ndim == 0:
        return jax.random.normal(key, shape, dtype)
    return jax.vmap(lambda k: jax.random.normal(k, shape[1:], dtype))(key)
