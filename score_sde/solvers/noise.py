"""Standard normal noise, one stream per image."""

import jax
from jaxtyping import Array, Float, Key


def standard_normal(key: Key[Array, "*b"], x: Float[Array, "b *shape"]) -> Float[Array, "b *shape"]:
    """z ~ N(0, I) like `x`: from one key jointly, from a `[b]` array of keys image by image.

    `sample` passes one key per image, so that image i is the same whatever the batch it is drawn in.
    """
    if key.ndim == 0:
        return jax.random.normal(key, x.shape, x.dtype)
    return jax.vmap(lambda k: jax.random.normal(k, x.shape[1:], x.dtype))(key)


def split(key: Key[Array, "*b"], index: int) -> Key[Array, "*b"]:
    """The `index`-th key derived from each key, for a step that draws more than once."""
    fold_in = jax.random.fold_in
    return fold_in(key, index) if key.ndim == 0 else jax.vmap(lambda k: fold_in(k, index))(key)
