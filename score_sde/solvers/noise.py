"""Standard normal noise, one stream per image. The only source of randomness of every solver."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from score_sde.internal.broadcast import expand_like
from score_sde.sdes.base import SDE


def standard_normal(key: Key[Array, "*b"], x: Float[Array, "b *shape"]) -> Float[Array, "b *shape"]:
    """z ~ N(0, I) like `x`: from one key jointly, from a `[b]` array of keys image by image.

    `sample` passes one key per image, so that image i has the same noise in any batch.
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


def diffused(
    key: Key[Array, "*b"],
    sde: SDE,
    x: Float[Array, "b *shape"],
    t: Float[Array, "*times"],
    s: Float[Array, "*times"],
    s_noise: Float[Array, ""] | float,
) -> Float[Array, "b *shape"]:
    """α_{s|t} x + s_noise σ_{s|t} z: x_s from x_t by the SDE's own noise, for t < s."""
    scale, std = sde.transition(t, s)
    return expand_like(scale, x) * x + expand_like(s_noise * std, x) * standard_normal(key, x)


def fold_in(key: Key[Array, "*b"], index: Int[Array, ""] | int) -> Key[Array, "*b"]:
    """The `index`-th key derived from each key, for a step that draws more than once."""
    return jax.random.fold_in(key, index) if key.ndim == 0 else jax.vmap(lambda k: jax.random.fold_in(k, index))(key)
