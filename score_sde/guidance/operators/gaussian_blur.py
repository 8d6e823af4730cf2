"""Deblurring of a Gaussian blur."""

import numpy as np
from jaxtyping import Float

from score_sde.guidance.operators.separable import Separable
from score_sde.internal.pytree import pytree, static


@pytree
class GaussianBlur(Separable):
    """y = x smoothed by a Gaussian of `std` pixels that is cut off at `radius`. The image is reflected at its edges.

    Raises: ValueError unless std > 0 and radius >= 1.
    Source: DPS, arXiv 2209.14687, App. D, with std 3 and a kernel of 61 × 61 pixels for images of
      256 × 256.
    """

    std: float = static(default=3.0)
    radius: int = static(default=30)

    def __post_init__(self):
        if not (self.std > 0 and self.radius >= 1):
            raise ValueError(f"GaussianBlur needs std > 0 and radius >= 1, got std={self.std}, radius={self.radius}.")

    def axis_matrix(self, size: int) -> Float[np.ndarray, "m n"]:
        offsets = np.arange(-self.radius, self.radius + 1)
        weights = np.exp(-0.5 * (offsets / self.std) ** 2)
        # Reflected at the edges, pixel −1 is pixel 0 and pixel n is pixel n − 1: the image repeats after 2 n pixels.
        seen = (np.arange(size)[:, None] + offsets) % (2 * size)
        seen = np.where(seen < size, seen, 2 * size - 1 - seen)
        matrix = np.zeros((size, size))
        np.add.at(matrix, (np.arange(size)[:, None], seen), weights / weights.sum())
        return matrix
