"""Checks of the fields that several networks have, at construction."""

from collections.abc import Sequence
from typing import Any

import jax

from score_sde.networks.attention import ATTENTION
from score_sde.networks.embeddings import NOISE_EMBEDDINGS
from score_sde.networks.remat import REMAT

DTYPES = ("float32", "bfloat16", "float64")  # float64 is for comparisons, and needs jax_enable_x64
MOST_BLOCKS = 1000  # each block is traced by itself, so more blocks would take hours to compile


def check_shared(network: Any) -> None:
    """Raises ValueError where noise_embedding, fourier_scale, dropout, dtype or a condition's size is out of range."""
    check_choice(network, "noise_embedding", NOISE_EMBEDDINGS)
    check_dtype(network)
    check_condition_sizes(network)
    if not 0 <= network.dropout < 1:
        raise ValueError(f"{type(network).__name__} needs 0 <= dropout < 1, got {network.dropout}.")
    if not network.fourier_scale > 0:
        raise ValueError(f"{type(network).__name__} needs fourier_scale > 0, got {network.fourier_scale}.")


def as_tuples(network: Any, *names: str) -> None:
    """Makes the named fields tuples. A config gives lists, but a network must be hashable."""
    for name in names:
        object.__setattr__(network, name, tuple(getattr(network, name)))


def check_condition_sizes(network: Any) -> None:
    """Raises ValueError where num_classes or embedding_dim is below 0. None is for the data to fill in."""
    check_at_least(network, 0, *(n for n in ("num_classes", "embedding_dim") if getattr(network, n) is not None))


def check_computation(network: Any) -> None:
    """Raises ValueError where dtype, attention or remat is not among the choices."""
    check_dtype(network)
    check_choice(network, "attention", ATTENTION)
    check_choice(network, "remat", REMAT)


def check_dtype(network: Any) -> None:
    """Raises ValueError unless dtype is one of DTYPES, and JAX can compute in it."""
    check_choice(network, "dtype", DTYPES)
    if network.dtype == "float64" and not jax.config.jax_enable_x64:
        raise ValueError(
            f'{type(network).__name__} needs JAX\'s 64-bit mode for dtype "float64"; set '
            'jax.config.update("jax_enable_x64", True), or choose float32.'
        )


def check_choice(network: Any, name: str, allowed: Sequence[str]) -> None:
    """Raises ValueError unless the field `name` is one of `allowed`."""
    value = getattr(network, name)
    if value not in allowed:
        raise ValueError(f"{type(network).__name__} needs {name} to be one of {', '.join(allowed)}, got {value!r}.")


def check_at_least(network: Any, minimum: int, *names: str) -> None:
    """Raises ValueError unless each named field, or each of its entries, is a whole number of at least `minimum`."""
    for name in names:
        value = getattr(network, name)
        entries = value if isinstance(value, tuple) else (value,)
        if not all(isinstance(entry, int) and entry >= minimum for entry in entries):
            raise ValueError(f"{type(network).__name__} needs {name} >= {minimum} in whole numbers, got {value}.")


def check_attention(network: Any, height: int, always: str, field: str = "attention_resolutions") -> None:
    """Raises ValueError unless each of the field's resolutions is the height of a level.

    Args:
      height: the height of the first level. Each further level halves it.
      always: where the network has attention in any case, for the message.
      field: the name of the field.
    """
    heights = [height // 2**level for level in range(len(network.channel_multipliers))]
    if not set(getattr(network, field)) <= set(heights):
        raise ValueError(
            f"{type(network).__name__} needs {field} among the heights {heights} of its levels, got "
            f"{getattr(network, field)}; choose among them, or () for attention {always} only."
        )


def check_blocks(network: Any, name: str) -> None:
    """Raises ValueError unless the field `name`, a number of blocks, is a whole number from 1 to MOST_BLOCKS."""
    check_at_least(network, 1, name)
    if getattr(network, name) > MOST_BLOCKS:
        raise ValueError(f"{type(network).__name__} needs {name} <= {MOST_BLOCKS}, got {getattr(network, name)}.")


def check_transformer(network: Any) -> None:
    """Raises ValueError where a field that all transformers have is out of range."""
    name = type(network).__name__
    check_at_least(network, 1, "patch_size", "width", "num_heads")
    check_blocks(network, "depth")
    check_computation(network)
    if network.out_channels is not None:
        check_at_least(network, 1, "out_channels")
    check_condition_sizes(network)
    if not 0 <= getattr(network, "dropout", 0.0) < 1:
        raise ValueError(f"{name} needs 0 <= dropout < 1, got {network.dropout}.")
    if not network.mlp_ratio > 0:
        raise ValueError(f"{name} needs mlp_ratio > 0, got {network.mlp_ratio}.")
    if network.width % network.num_heads:
        raise ValueError(f"{name} needs num_heads that divides width={network.width}, got {network.num_heads}.")
