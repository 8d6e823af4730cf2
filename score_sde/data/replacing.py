"""Replaces examples that cannot be used by others, so that one damaged file does not end a run."""

import logging
import threading
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int64, Integer

from score_sde.data.base import BadExample, Examples, Source
from score_sde.data.hashing import fold, seed_key

OnError = Literal["raise", "skip"]
MOST_TRIED = 1000  # the most examples in a row that are tried as a replacement


class Replacing:
    """gather(indices) of a source. With on_error="skip", another example replaces one that cannot be used.

    Example i is replaced by the first usable example of the sequence r₀(i), r₁(i), …, which are
    hashes of i modulo n. So a batch does not depend on earlier reads, or on the number of processes
    or threads.

    Attributes:
      bad: the examples found so far that cannot be used: index -> reason.
    """

    def __init__(self, source: Source, on_error: OnError = "raise"):
        self.bad: dict[int, str] = {}
        self._source, self._on_error, self._lock = source, on_error, threading.Lock()

    def gather(
        self, indices: Integer[np.ndarray, " b"]
    ) -> tuple[Examples, Int64[np.ndarray, " b"], Bool[np.ndarray, " b"]]:
        """(the examples, the index of each, which of them replace others).

        Raises: BadExample with on_error="raise". ValueError where no usable example is found.
        """
        while True:
            used = np.array([self._usable(i) for i in indices.tolist()], np.int64)
            try:
                return self._source.gather(used), used, used != indices
            except BadExample as error:
                if self._on_error != "skip":
                    raise
                self._remember(error)

    def _remember(self, error: BadExample) -> None:
        with self._lock:
            if error.index not in self.bad:
                self.bad[error.index] = str(error)
                logging.warning("Example %d is skipped: %s", error.index, error)

    def _usable(self, index: int) -> int:
        """The index itself, or the index of the replacement for an example that is known to be bad."""
        if index not in self.bad:
            return index
        tried = fold(fold(seed_key(0), index), np.arange(MOST_TRIED)) % np.uint64(len(self._source))
        for other in tried.tolist():
            if other not in self.bad:
                return other
        raise ValueError(
            f"data.on_error=skip found no example that can be used among {MOST_TRIED} tried; the first that cannot: "
            f"{next(iter(self.bad.values()))}"
        )
