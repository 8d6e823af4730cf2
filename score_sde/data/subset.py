"""A part of a source, and the division of a source into two parts."""

import dataclasses

import numpy as np
from jaxtyping import Int32, Integer

from score_sde.data.base import BadExample, Examples, Source
from score_sde.data.digests import digest_of_array, digest_of_json
from score_sde.data.hashing import permutation


class Subset(Source):
    """Example i is example indices[i] of `source`.

    Raises: IndexError if an index lies outside of the source.
    """

    def __init__(self, source: Source, indices: Integer[np.ndarray, " m"]):
        if indices.size and not 0 <= indices.min() <= indices.max() < len(source):
            raise IndexError(f"Subset needs 0 <= index < {len(source)}, got {indices.min()} to {indices.max()}.")
        self.spec = source.spec
        self._source = source
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def labels_at(self, indices: Integer[np.ndarray, " b"]) -> Int32[np.ndarray, " b"]:
        """The labels of source[indices[i]]."""
        return self._source.labels_at(self._indices[indices])

    def digest(self) -> str | None:
        """The digest of the source's digest and the indices."""
        whole = self._source.digest()
        return None if whole is None else digest_of_json([whole, digest_of_array(self._indices)])

    def gather(self, indices: Integer[np.ndarray, " b"]) -> Examples:
        """The examples source[indices[i]]."""
        there = self._indices[indices]
        try:
            return self._source.gather(there)
        except BadExample as error:
            here = indices[np.flatnonzero(there == error.index)[0]]
            raise BadExample(int(here), str(error)) from error


@dataclasses.dataclass(frozen=True)
class HoldOut:
    """A source divided into two parts without a common example.

    Attributes:
      train: the examples to train on.
      test: the held-out examples.
    """

    train: Source
    test: Source


def hold_out(source: Source, fraction: float, seed: int = 0) -> HoldOut:
    """Holds out ⌈fraction · n⌉ examples. Each part keeps the source's order.

    The draw depends on (seed, n) alone.

    Raises: ValueError if one of the parts would be empty.
    """
    count = int(np.ceil(fraction * len(source)))
    if not 0 < count < len(source):
        raise ValueError(f"hold_out needs a fraction that leaves both parts examples, got {fraction} of {len(source)}.")
    order = permutation(len(source), seed, 0)
    return HoldOut(train=Subset(source, np.sort(order[count:])), test=Subset(source, np.sort(order[:count])))
