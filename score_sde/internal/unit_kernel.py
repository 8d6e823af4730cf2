"""Weights of unit magnitude: the name that marks them, and how they are normalized."""

from collections.abc import Iterable

import jax.numpy as jnp
from jaxtyping import Array, Float

UNIT_KERNEL = "unit_kernel"  # the last name of the parameters that networks use divided by their norm
EPSILON = 1e-4


def normalized(x: Float[Array, "..."], axes: Iterable[int]) -> Float[Array, "..."]:
    """x/(rms(x) + 1e-4), with the root mean square over `axes`, in float32 or the wider type of x.

    Source: arXiv 2312.02696, the code of Eqs. 30 and 47, where 1e-4 is added to the root.
    """
    wide = x if x.dtype == jnp.float64 else x.astype(jnp.float32)
    square = jnp.mean(jnp.square(wide), axis=tuple(axes), keepdims=True)
    # The derivative of √ at 0 is infinite; a place of zeros stays zeros, with a derivative of 0.
    root = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
    return (wide / (root + EPSILON)).astype(x.dtype)
