"""The mesh: all devices as data × fsdp × tensor, and the part of a batch that each process holds.

A batch is sharded over data and fsdp together. Parameters are sharded over fsdp, and over tensor
where a network declares how.
"""

from collections import defaultdict

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")


def make_mesh(num_devices: int | None = None, data: int | None = None, fsdp: int = 1, tensor: int = 1) -> Mesh:
    """A mesh of `data` × `fsdp` × `tensor` devices.

    Args:
      num_devices: the number of devices. None is the product of the axes, or all devices of all
        processes.
      data: the number of devices with a copy of the same parameters. None is as many as are left.
      fsdp: the number of devices over which each large array of the state is divided.
      tensor: the number of devices over which the features of a layer are divided.
    Raises: ValueError when there are fewer devices, when the axes do not multiply to their number,
      or when a process would have none.
    """
    devices, inner = jax.devices(), fsdp * tensor
    sizes = {"num_devices": num_devices, "data": data, "fsdp": fsdp, "tensor": tensor}
    if any(size is not None and size < 1 for size in sizes.values()):
        raise ValueError(
            f"The mesh needs 1 <= num_devices <= {len(devices)} (the devices here) and axes >= 1, got {sizes}."
        )
    number = num_devices or (len(devices) if data is None else data * inner)
    if number > len(devices):
        raise ValueError(
            f"The mesh needs 1 <= num_devices <= {len(devices)} (the devices here), got {sizes}, which is {number}."
        )
    if number % inner or data not in (None, number // inner):
        raise ValueError(
            f"The mesh needs data · fsdp · tensor = {number}, its number of devices, got {sizes}; leave mesh.data None "
            "to take what is left, and let fsdp · tensor divide the number."
        )
    if jax.process_count() > 1 and number != len(devices):
        raise ValueError(
            f"A mesh over several processes needs all {len(devices)} devices, got {sizes}, which is {number}; leave "
            "mesh.num_devices and mesh.data None."
        )
    return _arranged(devices[:number], (number // inner, fsdp, tensor))


def _arranged(devices: list[jax.Device], shape: tuple[int, int, int]) -> Mesh:
    """The devices in the order that suits the interconnect, or in the order of the processes.

    The order of the processes is taken where the first order scatters the rows of a process. A
    process loads one contiguous part of the batch. If its rows were on other devices, examples
    would get other noise, and the run would change.
    """
    axis_types = (AxisType.Auto,) * len(AXES)
    mesh = jax.make_mesh(shape, AXES, axis_types=axis_types, devices=devices)
    if _parts(mesh.devices) is not None:
        return mesh
    ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
    mesh = Mesh(np.array(ordered).reshape(shape), AXES, axis_types=axis_types)
    if _parts(mesh.devices) is None:
        raise ValueError(
            f"The mesh {dict(mesh.shape)} gives processes different or broken parts of the batch; let mesh.tensor divide, "
            "or be a multiple of, the devices of one process."
        )
    return mesh


def _parts(devices: np.ndarray) -> dict[int, tuple[int, int]] | None:
    """Process -> (the number of its part of the batch, the number of parts), or None if the parts are not equal blocks.

    `devices` is [data, fsdp, tensor], as in a mesh.
    """
    shards, number = defaultdict(set), devices.shape[0] * devices.shape[1]
    for shard, row in enumerate(devices.reshape(number, -1)):
        for device in row:
            shards[device.process_index].add(shard)
    sizes = {len(own) for own in shards.values()}
    size = min(sizes)
    blocks = all(own == set(range(min(own), min(own) + size)) and min(own) % size == 0 for own in shards.values())
    if len(sizes) > 1 or not blocks:
        return None
    return {process: (min(own) // size, number // size) for process, own in shards.items()}


def batch_part(mesh: Mesh) -> tuple[int, int]:
    """(i, n): this process holds the ith of n equal, contiguous parts of every batch."""
    parts = _parts(mesh.devices)
    return (0, 1) if parts is None else parts[jax.process_index()]


def mesh_for_batch(batch_size: int, least_per_device: int = 4) -> Mesh:
    """The mesh over as many devices as can share `batch_size` evenly.

    On CPU, each device gets at least `least_per_device` examples. With several processes, the mesh
    is all devices. A CPU's devices are its cores, and a machine may have more cores than the batch
    has examples. Accelerators are used even for one example each.
    """
    number = len(jax.devices())
    if jax.process_count() > 1:
        return make_mesh()
    least = least_per_device if jax.default_backend() == "cpu" else 1
    fitting = [n for n in range(1, number + 1) if batch_size % n == 0 and (n == 1 or batch_size // n >= least)]
    return make_mesh(max(fitting))


def batch_shards(mesh: Mesh) -> int:
    """The number of parts into which a batch is divided: data · fsdp."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def check_batch_size(batch_size: int, mesh: Mesh, accumulation_steps: int = 1) -> None:
    """Raises ValueError unless the devices share `batch_size` evenly, each part in `accumulation_steps` equal parts."""
    shards = batch_shards(mesh)
    if batch_size % shards:
        raise ValueError(
            f"batch_size needs to be a multiple of the number of devices that share it (mesh data · fsdp), got {batch_size} "
            f"on {shards} devices; change batch_size, or set mesh.num_devices."
        )
    if accumulation_steps < 1 or (batch_size // shards) % accumulation_steps:
        raise ValueError(
            f"optimizer.accumulation_steps needs to be >= 1 and divide the {batch_size // shards} examples of a device "
            f"(batch_size {batch_size} on {shards} devices), got {accumulation_steps}; change one of them."
        )


def round_up(batch_size: int, mesh: Mesh) -> int:
    """The next multiple of the number of devices that share a batch."""
    return -(-batch_size // batch_shards(mesh)) * batch_shards(mesh)
