"""PSNR and SSIM of pairs of images, by hand."""

import numpy as np
import pytest

from score_sde.metrics.psnr import psnr
from score_sde.metrics.ssim import ssim

RNG = np.random.default_rng(0)
A = RNG.uniform(-1, 1, (2, 13, 12, 2)).astype(np.float32)
B = (A + 0.3 * RNG.standard_normal(A.shape)).astype(np.float32)


def test_psnr():
    """A difference of 0.02 everywhere, on a range of 2, is a hundredth of the range: 40 dB."""
    np.testing.assert_allclose(psnr(A, A + np.float32(0.02)), 40, rtol=1e-4)
    assert np.isinf(psnr(A, A)).all()


def test_ssim_by_its_definition():
    """Window by window, as in the paper; images that are equal have 1."""
    offsets = np.arange(-5, 6)
    weights = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    weights /= weights.sum()
    c1, c2, values = 0.0004, 0.0036, []
    for row in range(3):
        for column in range(2):
            for channel in range(2):
                a, b = (np.float64(x[1, row : row + 11, column : column + 11, channel]) for x in (A, B))
                mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
                var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
                both = (weights * (a - mean_a) * (b - mean_b)).sum()
                top = (2 * mean_a * mean_b + c1) * (2 * both + c2)
                values.append(top / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)))
    np.testing.assert_allclose(ssim(A, B)[1], np.mean(values), rtol=1e-9)
    np.testing.assert_allclose(ssim(A, A), 1)
    with pytest.raises(ValueError, match="SSIM needs images of at least 11×11, got 8×12"):
        ssim(A[:, :8], B[:, :8])
