"""Patches: an image or signal as a sequence of tokens, one for each patch, and back."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Array, Float

from score_sde.networks.conditions import Given


def patchify(x: Float[Array, "b *space c"], patch_size: int) -> Float[Array, "b tokens features"]:
    """One token for each patch with sides of `patch_size`, in the order of rows.

    The features of a token are the numbers of its patch: rows, then columns, then channels.
    """
    batch, *space, channels = x.shape
    grid = grid_of(space, patch_size)
    split = [size for side in grid for size in (side, patch_size)]
    rank = len(grid)
    # [b, grid, p, grid, p, c] -> [b, grid, grid, p, p, c]
    order = (0, *range(1, 2 * rank, 2), *range(2, 2 * rank + 1, 2), 2 * rank + 1)
    return x.reshape(batch, *split, channels).transpose(order).reshape(batch, -1, patch_size**rank * channels)


def unpatchify(
    tokens: Float[Array, "b tokens features"], grid: Sequence[int], patch_size: int
) -> Float[Array, "b *space c"]:
    """The inverse of `patchify`, for the patches of a `grid`."""
    batch, rank = tokens.shape[0], len(grid)
    h = tokens.reshape(batch, *grid, *(patch_size,) * rank, -1)
    # [b, grid, grid, p, p, c] -> [b, grid, p, grid, p, c]
    order = (0, *(axis for i in range(rank) for axis in (1 + i, 1 + rank + i)), 2 * rank + 1)
    return h.transpose(order).reshape(batch, *(side * patch_size for side in grid), -1)


def grid_of(space: Sequence[int], patch_size: int) -> tuple[int, ...]:
    """The number of patches along each axis."""
    return tuple(side // patch_size for side in space)


def check_patches(network: Any, x: Array) -> None:
    """Raises ValueError where x has no spatial axis, or a side that patch_size does not divide."""
    name, space = type(network).__name__, x.shape[1:-1]
    if not space:
        raise ValueError(f"{name} needs images [b, h, w, c] or signals [b, l, c], got {x.shape}; use MLP for points.")
    if any(side % network.patch_size for side in space):
        raise ValueError(
            f"{name} needs sides that patch_size={network.patch_size} divides, got {space}; pad or resize the data, or "
            "choose another patch_size."
        )


def check_images(network: Any, x: Array, given: Given) -> None:
    """Raises ValueError where the images have another number of channels than in training.

    `network` is a bound module, whose layer "patch" takes the patches of x and of the images.
    """
    if given.images is None or not network.has_variable("params", "patch"):
        return
    features = network.get_variable("params", "patch")["kernel"].shape[0]
    needed = features // network.patch_size ** (x.ndim - 2) - x.shape[-1]
    if given.images.shape[-1] != needed:
        raise ValueError(
            f"The images among the conditions have {needed} channels in all in this network, got {given.images.shape[-1]}; "
            "give images with those channels, or train a network for the new ones."
        )
