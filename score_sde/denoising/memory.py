"""What a denoiser keeps from one call to the next within a solve, such as the momentum of a guidance rule."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.internal.pytree import pytree


@pytree
class Memory:
    """An array like x that a denoiser reads and writes as it is called. It starts at zero in every solve.

    `sample` starts the memory, so that no solver knows it. It works in loops and branches of any solver, on several
    devices and in `jax.export`. It does not work with reverse-mode derivatives and `vmap` of a whole solve. Outside of a
    solve it reads as zero and writes nothing, so that a single call is the first call of a solve.
    """

    cell: Any = None  # a mutable array of JAX; None outside of a solve

    def read(self, x: Float[Array, "b *shape"]) -> Float[Array, "b *shape"]:
        """What was written last, in the shape of x."""
        return jnp.zeros_like(x) if self.cell is None else self.cell[...]

    def write(self, value: Float[Array, "b *shape"]) -> None:
        """Keeps `value` for the next call."""
        if self.cell is not None:
            self.cell[...] = value


def _is_memory(node: Any) -> bool:
    return isinstance(node, Memory)


def has_memory(denoise: Any) -> bool:
    """Whether a part of `denoise` keeps something from call to call."""
    return any(_is_memory(node) for node in jax.tree.leaves(denoise, is_leaf=_is_memory))


def remembering(denoise: Any, x: Float[Array, "b *shape"]) -> Any:
    """`denoise` at the start of a solve of images like x: each `Memory` in it holds zeros."""

    def started(node):
        return Memory(jax.new_ref(jnp.zeros_like(x))) if _is_memory(node) else node

    return jax.tree.map(started, denoise, is_leaf=_is_memory)
