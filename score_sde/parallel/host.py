"""The settings of this process before JAX starts: its CPU devices, its heap, its compilation cache."""

import ctypes
import os

import jax

_MALLOPT_TRIM_THRESHOLD, _MALLOPT_TOP_PAD, _MALLOPT_MMAP_MAX, _MALLOPT_ARENA_MAX = -1, -2, -4, -8
_LARGEST_HEAP = 64 * 2**20  # the largest size of a thread's own heap in glibc, in bytes


def configure_host(
    compilation_cache_dir: str | None = None, processes_here: int = 1, large_buffers: bool = True
) -> None:
    """Prepares this process before JAX starts: one CPU device per core, the heap, the compilation cache.

    XLA runs one CPU program on about 1.5 of 2 cores. A batch that is sharded over one virtual
    device per core uses all cores. JAX allocates and frees its buffers in every step. By default
    the memory goes back to the kernel, and every page is faulted in again; here the heap keeps its
    pages (for `large_buffers`, see `keep_heap_pages`). Several processes on one machine share its
    cores. Settings of the user (JAX_NUM_CPU_DEVICES, XLA_FLAGS, JAX_COMPILATION_CACHE_DIR,
    MALLOC_…) stay as they are. A call after JAX has started its backend adds no devices.
    """
    keep_heap_pages(large_buffers)
    chosen = "JAX_NUM_CPU_DEVICES" in os.environ or "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not chosen and not _backend_started():
        jax.config.update("jax_num_cpu_devices", max(1, _cores() // processes_here))
    enable_compilation_cache(compilation_cache_dir)


def _cores() -> int:
    """The cores that this process may use. For a Slurm task they are its own, even if the job does not bind tasks to cores."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    return min(allowed, int(os.environ.get("SLURM_CPUS_PER_TASK", allowed)))


def _backend_started() -> bool:
    from jax._src import xla_bridge

    return xla_bridge.backends_are_initialized()


def keep_heap_pages(large_buffers: bool = True) -> None:
    """Tells glibc's malloc to keep freed memory, unless the user chose otherwise. Elsewhere it does nothing.

    With `large_buffers`, all threads share one heap. A thread's own heap cannot hold more than 64
    MB in one piece, and would take such memory from the kernel each time. That is a seventh of a
    training step. Without `large_buffers`, each thread has its own heap. Then threads do not wait
    for each other while XLA compiles, which is a fifth of that time.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "GLIBC_TUNABLES" in os.environ:
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(_MALLOPT_MMAP_MAX, 0)
    mallopt(_MALLOPT_TRIM_THRESHOLD, -1)  # never
    if large_buffers:
        mallopt(_MALLOPT_ARENA_MAX, 1)
    else:
        mallopt(_MALLOPT_TOP_PAD, _LARGEST_HEAP)  # so a heap is not given back while it could still grow


def enable_compilation_cache(directory: str | None = None) -> None:
    """Keeps compiled programs on disk (default: $JAX_COMPILATION_CACHE_DIR or ~/.cache/score_sde/jax)."""
    default = os.path.join(os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "score_sde", "jax")
    jax.config.update("jax_compilation_cache_dir", directory or os.environ.get("JAX_COMPILATION_CACHE_DIR") or default)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
