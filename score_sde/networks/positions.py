"""The positions of tokens: tables of sines and cosines that are added to tokens, and rotations of queries and keys.

Tokens stand on a grid of any rank, in the order of its rows. Tables are computed in float64 when a
program is traced.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.networks.layers import wide

PERIOD = 10_000.0


class Rotation(NamedTuple):
    """cos θ and sin θ for each token and each feature of a head."""

    cos: Float[Array, "tokens d"]
    sin: Float[Array, "tokens d"]


def sincos_positions(grid: Sequence[int], features: int) -> Float[np.ndarray, "tokens features"]:
    """[sin ω p, cos ω p] for each axis of a grid, the last axis first, with ω falling geometrically from 1 to 1e-4.

    The features are divided equally among the axes, and 2 · rank divides them.

    Source: DiT, arXiv 2212.09748 (in the code); Vaswani et al., arXiv 1706.03762.
    """
    half = features // (2 * len(grid))
    omega = PERIOD ** (-np.arange(half, dtype=np.float64) / half)
    places = np.indices(grid).reshape(len(grid), -1).astype(np.float64)
    tables = []
    for place in reversed(places):
        angle = place[:, None] * omega[None]
        tables += [np.sin(angle), np.cos(angle)]
    return np.concatenate(tables, axis=1)


def rope(grid: Sequence[int], features: int, extra: int = 0) -> Rotation:
    """The angles θ = p ω of rotary position embedding on a grid, for heads of `features` features.

    The features are divided equally among the axes, the first axis first. Features 2i and 2i + 1 of
    an axis turn together, with ω_i = 1e4^(−2i / features of an axis). `extra` tokens before the
    grid are not turned.

    Source: Su et al., arXiv 2104.09864; on images as in EVA-02, arXiv 2303.11331.
    """
    each = features // len(grid)
    omega = PERIOD ** (-np.arange(0, each, 2, dtype=np.float64) / each)
    places = np.indices(grid).reshape(len(grid), -1).astype(np.float64)
    angle = np.concatenate([np.repeat(place[:, None] * omega[None], 2, axis=1) for place in places], axis=1)
    angle = np.concatenate([np.zeros((extra, angle.shape[1])), angle])
    return Rotation(jnp.asarray(np.cos(angle)), jnp.asarray(np.sin(angle)))


def rotate(x: Float[Array, "b tokens heads d"], rotation: Rotation) -> Float[Array, "b tokens heads d"]:
    """(x₂ᵢ cos θ − x₂ᵢ₊₁ sin θ, x₂ᵢ₊₁ cos θ + x₂ᵢ sin θ), in float32 or the wider type of x."""
    cos, sin = (table.astype(wide(x.dtype))[None, :, None, :] for table in rotation)
    h = x.astype(wide(x.dtype))
    pairs = h.reshape(*h.shape[:-1], -1, 2)
    turned = jnp.stack([-pairs[..., 1], pairs[..., 0]], axis=-1).reshape(h.shape)
    return (h * cos + turned * sin).astype(x.dtype)


def check_positions(network: Any, rank: int, *, sincos: bool, rotated: bool) -> None:
    """Raises ValueError where the width or the heads cannot be divided among sines and cosines of each axis.

    Args:
      network: a network with the fields width and num_heads.
      rank: the number of axes of the grid.
      sincos: whether a table is added to the tokens.
      rotated: whether queries and keys are turned.
    """
    name, parts, d = type(network).__name__, 2 * rank, network.width // network.num_heads
    if sincos and network.width % parts:
        raise ValueError(
            f"{name} needs a width that 2 · the number of axes ({parts}) divides, got {network.width}; choose another "
            "width, or other positions."
        )
    if rotated and d % parts:
        raise ValueError(
            f"{name} needs heads of a size that {parts} divides for rotary positions on {rank} axes, got {d}; choose "
            "another width or num_heads."
        )
