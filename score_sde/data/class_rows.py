"""The examples of a class in a source, found without reading more labels than needed."""

import numpy as np
from jaxtyping import Int64

from score_sde.data.base import Source

AT_ONCE = 256  # labels per read; in files of images with labels, a label costs the reading of its record


class RowsOfClass:
    """The indices of the examples of one class, in the order of the source.

    The labels of a large data set may take minutes to read. They are read from the start, only as
    far as needed, and each label once.
    """

    def __init__(self, source: Source, label: int):
        self._source, self._label = source, label
        self._rows: list[int] = []
        self._seen = 0

    def first(self, wanted: int) -> Int64[np.ndarray, " n"]:
        """The first `wanted` indices, or all of them if the source has fewer."""
        while len(self._rows) < wanted and self._seen < len(self._source):
            chunk = np.arange(self._seen, min(self._seen + AT_ONCE, len(self._source)))
            self._rows.extend(chunk[self._source.labels_at(chunk) == self._label].tolist())
            self._seen += len(chunk)
        return np.array(self._rows[:wanted], np.int64)
