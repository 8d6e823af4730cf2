"""A cache of decoded examples in memory, so that each example is decoded once."""

import threading
from collections.abc import Callable

import numpy as np
from jaxtyping import Integer

from score_sde.data.base import Examples


class ExampleCache:
    """read(i), cached: an example is decoded when first asked for, and copied from memory afterwards.

    The arrays are allocated as untouched pages, so the memory grows with the examples that have
    been read. Two threads may decode the same example. They then write the same bytes.

    Args:
      read: indices -> stacked examples. Every call must give the same examples.
      length: the number of examples.
      max_bytes: if all examples together need more, nothing is cached, and every call reads again.
    """

    def __init__(self, read: Callable[[Integer[np.ndarray, " b"]], Examples], length: int, max_bytes: int):
        self._read = read
        self._length = length
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._kept: Examples = {}
        self._have = np.zeros(length, bool)

    def __call__(self, indices: Integer[np.ndarray, " b"]) -> Examples:
        """Returns the examples at `indices`, stacked."""
        if self._max_bytes <= 0:
            return self._read(indices)
        missing = np.unique(indices[~self._have[indices]])
        if missing.size:
            fresh = self._read(missing)
            if not self._allocate(fresh):
                return self._read(indices)
            for name, values in fresh.items():
                self._kept[name][missing] = values
            self._have[missing] = (
                True  # after the copy, because another thread may read an example as soon as it is marked
            )
        return {name: values[indices] for name, values in self._kept.items()}

    def _allocate(self, fresh: Examples) -> bool:
        """Allocates memory for all examples, in the shape of the fresh examples, once. False where they need too much."""
        with self._lock:
            if not self._kept:
                if self._length * sum(values[0].nbytes for values in fresh.values()) > self._max_bytes:
                    self._max_bytes = 0
                    return False
                self._kept = {k: np.zeros((self._length, *v.shape[1:]), v.dtype) for k, v in fresh.items()}
            return True
