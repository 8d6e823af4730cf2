"""Forgets compiled programs before the process has more pieces of memory than Linux allows.

Every program that XLA compiles for the CPU adds some pieces of memory (lines of /proc/self/maps), and
JAX keeps every program. Linux allows 65,530 pieces to one process (vm.max_map_count). XLA ends the
process when it gets no more. The whole suite compiles enough programs to come there. So this module
looks at the end of each test file, and clears JAX's caches when the process has more than LIMIT.
"""

import gc
import pathlib
from collections.abc import Iterator

import jax
import pytest

LIMIT = 25_000
MAPS = pathlib.Path("/proc/self/maps")


def pieces() -> int:
    """The pieces of memory of this process; 0 on a system that does not say."""
    return MAPS.read_bytes().count(b"\n") if MAPS.exists() else 0


@pytest.fixture(autouse=True, scope="module")
def forget_compiled_programs() -> Iterator[None]:
    """Clears JAX's caches after a test file when the process has more than LIMIT pieces of memory."""
    yield
    if pieces() > LIMIT:
        jax.clear_caches()
        gc.collect()
