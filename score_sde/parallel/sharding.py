"""The placement of arrays: batches over data · fsdp, the state over fsdp and tensor, and transfers to and from the host."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from score_sde.parallel.mesh import BATCH_AXES, batch_part

# The names of a parameter, outermost first -> the axis of it that is divided among "tensor", or None.
TensorAxis = Callable[[tuple[str, ...]], int | None]

LEAST_SHARDED = 4096  # elements; gathering a smaller array costs more than keeping it


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of the first axis over the data and fsdp axes of the mesh."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding with a copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def partition(
    path: tuple[str, ...],
    shape: tuple[int, ...],
    mesh_shape: Mapping[str, int],
    tensor_axis: TensorAxis | None = None,
    *,
    over_fsdp: bool = True,
) -> PartitionSpec:
    """How an array is divided: its declared axis over tensor, and the largest axis that fsdp divides over fsdp.

    The fsdp axis is another axis than the declared axis. Arrays of fewer than 4096 elements, and
    arrays without a suitable axis, are not divided over fsdp. With `over_fsdp` False, no array is.

    Raises: ValueError when tensor does not divide the declared axis.
    """
    spec: list[str | None] = [None] * len(shape)
    tensor, fsdp = mesh_shape["tensor"], mesh_shape["fsdp"]
    declared = tensor_axis(path) if tensor_axis is not None and tensor > 1 else None
    if declared is not None:
        if shape[declared] % tensor:
            raise ValueError(
                f"mesh.tensor needs to divide axis {declared} of {'/'.join(path)}, which has shape {shape}, got {tensor}; "
                "change mesh.tensor or the width of the network."
            )
        spec[declared] = "tensor"
    fitting = [axis for axis, size in enumerate(shape) if spec[axis] is None and size % fsdp == 0]
    if over_fsdp and fsdp > 1 and fitting and math.prod(shape) >= LEAST_SHARDED:
        spec[max(fitting, key=lambda axis: (shape[axis], axis))] = "fsdp"
    return PartitionSpec(*spec) if any(spec) else PartitionSpec()


def tree_sharding(tree: Any, mesh: Mesh, tensor_axis: TensorAxis | None = None, *, over_fsdp: bool = True) -> Any:
    """`partition` for each array of a pytree, by the names on the way to it."""

    def sharding(path, leaf):
        return NamedSharding(mesh, partition(names_of(path), leaf.shape, mesh.shape, tensor_axis, over_fsdp=over_fsdp))

    return jax.tree_util.tree_map_with_path(sharding, tree)


def names_of(path: tuple[Any, ...]) -> tuple[str, ...]:
    """The names on the way to a leaf, outermost first, from a path of `jax.tree_util`."""
    return tuple(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def bytes_per_device(tree: Any) -> int:
    """The bytes of a pytree's arrays on the fullest of this process's devices."""
    held: dict[jax.Device, int] = {}
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            held[shard.device] = held.get(shard.device, 0) + shard.data.nbytes
    return max(held.values(), default=0)


def shard_batch(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, Any]:
    """Puts this process's part of a global batch on its devices, with the first axis sharded."""
    sharding, (_, parts) = batch_sharding(mesh), batch_part(mesh)

    def whole(value):
        shape = (parts * value.shape[0], *value.shape[1:])
        return jax.make_array_from_process_local_data(sharding, value, shape)

    return jax.tree.map(whole, dict(batch))


def split_microbatches(tree: Any, number: int, mesh: Mesh) -> Any:
    """[b, …] -> [number, b/number, …] for each array. Rows i, i + number, … are part i, so no row leaves its device.

    A device holds consecutive rows, and `number` divides the number of these rows.
    """
    sharding = NamedSharding(mesh, PartitionSpec(None, BATCH_AXES))

    def split(array):
        parts = jnp.moveaxis(array.reshape(-1, number, *array.shape[1:]), 1, 0)
        return jax.lax.with_sharding_constraint(parts, sharding)

    return jax.tree.map(split, tree)


def merge_microbatches(tree: Any, mesh: Mesh) -> Any:
    """The inverse of `split_microbatches`: [number, b/number, …] -> [b, …]."""

    def merge(parts):
        array = jnp.moveaxis(parts, 0, 1).reshape(-1, *parts.shape[2:])
        return jax.lax.with_sharding_constraint(array, batch_sharding(mesh))

    return jax.tree.map(merge, tree)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Copies a pytree to every device of the mesh, as `place` does."""
    return place(tree, jax.tree.map(lambda leaf: replicated(mesh), tree))


def place(tree: Any, shardings: Any) -> Any:
    """The same arrays with other shardings, from any present sharding. All processes call it together.

    Numbers on the host must be the same in every process.
    """

    def moved(leaf, sharding):
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return _mover(sharding)(leaf)
        return jax.device_put(leaf, sharding)

    return jax.tree.map(moved, tree, shardings)


@functools.cache
def _mover(sharding: NamedSharding) -> Callable[[Array], Array]:
    """The identity as a program of all processes: only a program can move an array of several processes."""
    return jax.jit(lambda array: array, out_shardings=sharding)


def to_host(tree: Any) -> Any:
    """The whole arrays of a pytree, as numpy. Arrays on several processes are gathered on each of them."""

    def whole(leaf):
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
            return np.asarray(leaf)
        if leaf.is_fully_replicated:
            return np.asarray(leaf.addressable_data(0))
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(whole, tree)
