"""The noise of solvers. It comes from `sde.noise`, from one key for each image."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from score_sde.internal.broadcast import expand_like
from score_sde.sdes import standard_normal as normal
from score_sde.sdes.base import SDE


def standard_normal(key: Key[Array, "*b"], x: Float[Array, "b *shape"]) -> Float[Array, "b *shape"]:
    """z ~ N(0, I) like `x`, for hooks. The noise of an SDE is `like`."""
    return normal.standard_normal(key, x.shape, x.dtype)


def like(key: Key[Array, "*b"], sde: SDE, x: Float[Array, "b *shape"]) -> Float[Array, "b *shape"]:
    """z, the noise of the SDE, like `x`.

    `sample` passes one key for each image, so that image i has the same noise in any batch.
    """
    return sde.noise(key, x.shape, x.dtype)


def scaled(
    key: Key[Array, "*b"], sde: SDE, x: Float[Array, "b *shape"], std: Float[Array, ""]
) -> Float[Array, "b *shape"]:
    """`std` z, for solvers whose noise may be off. Where std = 0 nothing is drawn, at run time.

    A draw costs about as much as 20 flops of the network for each pixel. `std` is traced, so only a
    branch in the compiled program can save the draw. A NaN in `std` gives NaN.
    """
    return jax.lax.cond(std == 0, lambda: jnp.zeros_like(x), lambda: std * like(key, sde, x))


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
    return expand_like(scale, x) * x + expand_like(s_noise * std, x) * like(key, sde, x)


def keys_of_images(key: Key[Array, "*b"], number: int) -> Key[Array, " n"]:
    """One key for each of `number` images: those that are given, or parts of the one key."""
    return key if key.ndim else jax.random.split(key, number)


def fold_in(key: Key[Array, "*b"], index: Int[Array, ""] | int) -> Key[Array, "*b"]:
    """The `index`-th key derived from each key, for a step that draws more than once."""
    return jax.random.fold_in(key, index) if key.ndim == 0 else jax.vmap(lambda k: jax.random.fold_in(k, index))(key)
