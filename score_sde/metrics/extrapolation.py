"""The Fréchet distance at infinitely many samples, extrapolated from its bias in the number of samples."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int

from score_sde.metrics.features import FeatureStatistics


class Extrapolated(NamedTuple):
    """FD∞ with the standard error of the fit; the numbers of samples and the distances that it comes from."""

    value: float
    standard_error: float
    counts: Int[np.ndarray, " k"]
    distances: Float64[np.ndarray, " k"]

    @property
    def bias(self) -> float:
        """How much the distance at the largest number of samples lies above the extrapolated one."""
        return float(self.distances[-1] - self.value)


def extrapolate(
    features: Float[np.ndarray, "n d"],
    reference: FeatureStatistics,
    smallest: int = 5000,
    points: int = 15,
    seed: int = 0,
) -> Extrapolated:
    """Fits FD(n) = FD∞ + slope/n over `points` numbers of samples from `smallest` to all, drawn anew for each.

    Raises: ValueError unless 2 <= smallest < n, or for fewer than 3 points.
    Source: Chong and Forsyth, arXiv 1911.07023, Sec. 4 (15 points from 5,000 of 50,000).
    """
    if not 2 <= smallest < len(features) or points < 3:
        raise ValueError(
            f"extrapolate needs 2 <= smallest < {len(features)} (the samples) and points >= 3, got {smallest=}, {points=}."
        )
    rng = np.random.default_rng(seed)
    counts = np.linspace(smallest, len(features), points).astype(np.int64)
    subsets = (features[rng.permutation(len(features))[:count]] for count in counts)
    distances = np.array([FeatureStatistics.of(subset).frechet_distance(reference) for subset in subsets])
    design = np.stack([np.ones(points), 1.0 / counts], axis=1)
    coefficients, *_ = np.linalg.lstsq(design, distances, rcond=None)
    residuals = distances - design @ coefficients
    variance = (residuals**2).sum() / (points - 2) * np.linalg.inv(design.T @ design)[0, 0]
    return Extrapolated(float(coefficients[0]), float(np.sqrt(variance)), counts, distances)
