"""Values that a denoiser keeps from one call to the next within a solve, such as the momentum of a guidance rule."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.internal.pytree import pytree


@pytree
class Memory:
    """An array with the shape of x that a denoiser reads and writes in its calls. It is zero at the start of every solve.

    `sample` starts the memory, so solvers need not know it. It works in the loops and branches of
    any solver, on several devices and in `jax.export`. It does not work with reverse-mode
    derivatives, or with `vmap` of a whole solve. Outside of a solve it reads as zero and writes
    nothing. A single call then acts as the first call of a solve.
    """

    cell: Any = None  # a mutable array of JAX; None outside of a solve

    def read(self, x: Float[Array, "b *shape"]) -> Float[Array, "b *shape"]:
        """The value that was written last, in the shape of x."""
        return jnp.zeros_like(x) if self.cell is None else self.cell[...]

    def write(self, value: Float[Array, "b *shape"]) -> None:
        """Keeps `value` for the next call."""
        if self.cell is not None:
            self.cell[...] = value


def _is_memory(node: Any) -> bool:
    return isinstance(node, Memory)


def has_memory(denoise: Any) -> bool:
    """Whether a part of `denoise` keeps a value from call to call."""
    return any(_is_memory(node) for node in jax.tree.leaves(denoise, is_leaf=_is_memory))


def remembering(denoise: Any, x: Float[Array, "b *shape"]) -> Any:
    """`denoise` at the start of a solve of images like x. Each `Memory` in it holds zeros."""

    def started(node):
        return Memory(jax.new_ref(jnp.zeros_like(x))) if _is_memory(node) else node

    return jax.tree.map(started, denoise, is_leaf=_is_memory)
