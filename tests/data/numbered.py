"""A source whose values tell from which example they come."""

import numpy as np

from score_sde.data import DataSpec, Source


class Numbered(Source):
    """Example i is filled with the number i, and its label is i mod 7."""

    def __init__(self, length, shape=(2,)):
        self._length = length
        self.spec = DataSpec(shape=shape, num_classes=7, conditions={"label": ()})

    def __len__(self):
        return self._length

    def gather(self, indices):
        ones = np.ones((len(indices), *self.spec.shape), np.float32)
        x = ones * indices.astype(np.float32).reshape(-1, *[1] * len(self.spec.shape))
        return {"x": x, "label": (indices % 7).astype(np.int32)}
