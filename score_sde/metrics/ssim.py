"""SSIM: the structural similarity of an image and its original."""

import numpy as np
from jaxtyping import Float
from scipy.ndimage import correlate1d

WINDOW = 11  # pixels along a side


def ssim(a: Float[np.ndarray, "b h w c"], b: Float[np.ndarray, "b h w c"]) -> Float[np.ndarray, " b"]:
    """Mean over places and channels of (2 μ_a μ_b + C₁)(2 σ_ab + C₂)/((μ_a² + μ_b² + C₁)(σ_a² + σ_b² + C₂)), for [−1, 1].

    Means, variances and the covariance are weighted by a Gaussian of 1.5 pixels in a window of 11 × 11; only windows inside
    of the image count. C₁ = (0.01 · 2)² and C₂ = (0.03 · 2)², for values whose range is 2.

    Raises: ValueError for images smaller than the window.
    Source: Wang et al., IEEE Trans. Image Process. 13 (2004), Eq. 13 and Sec. III-C.
    """
    if min(a.shape[1:3]) < WINDOW:
        raise ValueError(f"SSIM needs images of at least {WINDOW}×{WINDOW}, got {a.shape[1]}×{a.shape[2]}.")
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    mean_a, mean_b = _weighted(a), _weighted(b)
    variances = _weighted(a * a) - mean_a**2 + _weighted(b * b) - mean_b**2
    covariance = _weighted(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    numerator = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return np.mean(numerator / ((mean_a**2 + mean_b**2 + c1) * (variances + c2)), axis=(1, 2, 3))


def _weighted(x):
    offsets = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-0.5 * (offsets / 1.5) ** 2)
    for axis in (1, 2):
        x = correlate1d(x, weights / weights.sum(), axis=axis)
    edge = WINDOW // 2
    return x[:, edge:-edge, edge:-edge]
