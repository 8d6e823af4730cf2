"""Standard normal noise, one stream per image. The only source of randomness of every solver."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key


def standard_normal(key: Key[Array, "*b"], x: Float[Array, "b *shape"]) -> Float[Array, "b *shape"]:
    """z ~ N(0, I) like `x`: from one key jointly, from a `[b]` array of keys image by image.

    `sample` passes one key per image, so that image i is the same whatever the batch it is drawn in.
    """
    if key.ndim == 0:
        return jax.random.normal(key, x.shape, x.dtype)
    return jax.vmap(lambda k: jax.random.normal(k, x.shape[1:], x.dtype))(key)


def scaled(key: Key[Array, "*b"], x: Float[Array, "b *shape"], std: Float[Array, ""]) -> Float[Array, "b *shape"]:
    """`std` z, for solvers whose noise may be off: where std = 0 nothing is drawn, at run time.

    Drawing costs about as much as a pass over the image for each 20 flops of the network; std is traced, so that only a
    branch in the compiled program can save it. A NaN goes on.
    """
    return jax.lax.cond(std == 0, lambda: jnp.zeros_like(x), lambda: std * standard_normal(key, x))


def fold_in(key: Key[Array, "*b"], index: Int[Array, ""] | int) -> Key[Array, "*b"]:
    """The `index`-th key derived from each key, for a step that draws more than once."""
    return jax.random.fold_in(key, index) if key.ndim == 0 else jax.vmap(lambda k: jax.random.fold_in(k, index))(key)
