"""Devices, the mesh, sharding and processes: the only file that knows that there is more than one device."""

import ctypes
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

DATA_AXIS = "data"
_MALLOPT_TRIM_THRESHOLD, _MALLOPT_MMAP_MAX = -1, -4


def configure_host(compilation_cache_dir: str | None = None) -> None:
    """Prepares this process before JAX starts: one CPU device per core, a heap that keeps its pages, the compilation cache.

    XLA runs one CPU program on about 1.5 of 2 cores; a batch sharded over one virtual device per core uses them all. Its
    buffers are allocated and freed every step, which by default goes back to the kernel and faults every page in again.
    What the user has set (JAX_NUM_CPU_DEVICES, XLA_FLAGS, JAX_COMPILATION_CACHE_DIR, MALLOC_…) stays as it is. Calling it
    after JAX has started its backend changes nothing but the cache.
    """
    keep_heap_pages()
    chosen = "JAX_NUM_CPU_DEVICES" in os.environ or "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not chosen and not _backend_started():
        jax.config.update(
            "jax_num_cpu_devices", len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        )
    enable_compilation_cache(compilation_cache_dir)


def _backend_started() -> bool:
    from jax._src import xla_bridge

    return xla_bridge.backends_are_initialized()


def keep_heap_pages() -> None:
    """Tells glibc's malloc to keep freed memory, unless the user chose otherwise; elsewhere it does nothing."""
    if any(name.startswith("MALLOC_") for name in os.environ) or "GLIBC_TUNABLES" in os.environ:
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(_MALLOPT_MMAP_MAX, 0)
    mallopt(_MALLOPT_TRIM_THRESHOLD, 2**31 - 1)


def enable_compilation_cache(directory: str | None = None) -> None:
    """Keeps compiled programs on disk (default: $JAX_COMPILATION_CACHE_DIR or ~/.cache/score_sde/jax)."""
    default = os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "score_sde", "jax")
    jax.config.update("jax_compilation_cache_dir", directory or os.environ.get("JAX_COMPILATION_CACHE_DIR") or default)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def make_mesh(num_devices: int | None = None) -> Mesh:
    """A mesh with one axis, "data", over `num_devices` devices (None: all of all processes).

    Raises: ValueError when there are fewer devices.
    """
    devices = jax.devices()
    number = len(devices) if num_devices is None else num_devices
    if not 1 <= number <= len(devices):
        raise ValueError(f"The mesh needs 1 <= num_devices <= {len(devices)} (the devices here), got {num_devices}.")
    return jax.make_mesh((number,), (DATA_AXIS,), axis_types=(AxisType.Auto,), devices=devices[:number])


def mesh_for_batch(batch_size: int, least_per_device: int = 4) -> Mesh:
    """The mesh over as many devices as share `batch_size` evenly, on CPU with at least `least_per_device` examples each.

    Of several processes it is all devices. A CPU's devices are its cores, of which a machine may have more than the batch
    has examples; accelerators are used even for one example each.
    """
    number = len(jax.devices())
    if jax.process_count() > 1:
        return make_mesh()
    least = least_per_device if jax.default_backend() == "cpu" else 1
    fitting = [n for n in range(1, number + 1) if batch_size % n == 0 and (n == 1 or batch_size // n >= least)]
    return make_mesh(max(fitting))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis over the data axis of the mesh."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raises ValueError unless the devices of the mesh share `batch_size` evenly."""
    if batch_size % mesh.size:
        raise ValueError(
            f"batch_size needs to be a multiple of the number of devices, got {batch_size} on {mesh.size} devices; "
            "change batch_size, or set mesh.num_devices."
        )


def round_up(batch_size: int, mesh: Mesh) -> int:
    """The next multiple of the number of devices."""
    return -(-batch_size // mesh.size) * mesh.size


def shard_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, Array]:
    """Puts this process's part of a global batch on its devices, the first axis sharded."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Copies a pytree to every device of the mesh."""
    return jax.device_put(tree, replicated(mesh))


def to_host(tree: Any) -> Any:
    """The whole arrays of a pytree, as numpy; on several processes gathered from all of them, on each."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)


def initialize_distributed() -> None:
    """Joins the other processes of the run, as the TPU pod, Slurm or JAX_COORDINATOR_ADDRESS names them.

    Call it before anything else touches JAX's devices, in every process.

    Source: jax.distributed.initialize.
    """
    jax.distributed.initialize()
