"""PSNR: the peak signal-to-noise ratio of an image and its original."""

import numpy as np
from jaxtyping import Float


def psnr(a: Float[np.ndarray, "b *shape"], b: Float[np.ndarray, "b *shape"]) -> Float[np.ndarray, " b"]:
    """10 log₁₀(4/mean (a − b)²) in decibels, for images in [−1, 1], whose range is 2; infinite where they are equal."""
    error = np.mean(np.square(a - b, dtype=np.float64).reshape(len(a), -1), axis=1)
    with np.errstate(divide="ignore"):
        return 10 * np.log10(4 / error)
