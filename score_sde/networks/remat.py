"""Which values inside a block the backward pass keeps, and which it computes again."""

from collections.abc import Callable
from typing import Any

import jax

REMAT = ("none", "blocks", "dots")


def keep_products(primitive: Any, *args: Any, **params: Any) -> bool:
    """A checkpoint policy that keeps the results of matrix products and convolutions.

    The primitives of `kernels.winograd`, whose names start with "conv", are convolutions too.
    """
    return primitive.name.startswith("conv") or bool(jax.checkpoint_policies.dots_saveable(primitive, *args, **params))


def kept(remat: str) -> Callable[..., Any]:
    """The checkpoint policy of "dots" or "blocks"."""
    return keep_products if remat == "dots" else jax.checkpoint_policies.nothing_saveable
