"""The Fréchet distance at infinitely many samples, extrapolated from its bias in the number of samples.

FD(n) = FD∞ + slope/n is the first order in d'/n, where d' is the effective number of features. Let
λ be the eigenvalues of the reference's covariance and κᵢ = Σⱼ λⱼ/(λᵢ + λⱼ). Then n samples of the
reference itself have the distance Σᵢ λᵢ (κᵢ/2 + 5/4) / n, and

    d' = 2 Σᵢ λᵢ κᵢ² / Σᵢ λᵢ κᵢ,

which is d where all λ are equal.

Error: `python -m benchmarks extrapolation` measures the fit of 15 numbers of samples from n/2 to n
  on exact Gaussian features (table in docs/evaluation.md). In units of the bias, FD∞ is too low by
  up to 36 % at n = 2 d', by 6 to 17 % at 4 d', and by at most 12 % from 6 d' on. At n = d'/2 it is
  too high by 24 to 52 %.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int

from score_sde.metrics.statistics import FeatureStatistics

PUBLISHED = 5000  # the smallest number of samples in the published fit
LEAST = 20  # the smallest number of samples for any features
SAFE = 4  # the smallest number of samples per effective feature for which the fit holds


class Extrapolated(NamedTuple):
    """FD∞ with the standard error of the fit, and the numbers of samples and the distances of the fit."""

    value: float
    standard_error: float
    counts: Int[np.ndarray, " k"]
    distances: Float64[np.ndarray, " k"]

    @property
    def bias(self) -> float:
        """The excess of the distance at the largest number of samples over the extrapolated distance."""
        return float(self.distances[-1] - self.value)

    def at(self, count: int) -> float:
        """FD(count) on the line, and at least 0, because a distance is not negative."""
        return max(0.0, self.value + self.bias * int(self.counts[-1]) / count)


def effective_features(eigenvalues: Float[np.ndarray, " d"]) -> float:
    """d' of a covariance with these eigenvalues. Eigenvalues that are 0 within rounding do not count."""
    largest = eigenvalues.max(initial=0.0)
    seen = eigenvalues[eigenvalues > len(eigenvalues) * np.finfo(np.float64).eps * largest]
    if not len(seen):
        return 0.0
    kappa = np.array([(seen / (one + seen)).sum() for one in seen])
    return float(2 * (seen * kappa**2).sum() / (seen * kappa).sum())


def fewest_samples(reference: FeatureStatistics, enough: int | None = None) -> int:
    """The smallest number of samples for an extrapolation: 4 per effective feature of the reference, and at least 20.

    Args:
      enough: if 4 d is at most this number, 4 d is returned. d' is then not computed, because its
        eigenvalues take a while.
    """
    at_most = max(LEAST, SAFE * len(reference.mean))
    if enough is not None and at_most <= enough:
        return at_most
    return max(LEAST, math.ceil(SAFE * effective_features(reference.eigenvalues)))


def extrapolate(
    features: Float[np.ndarray, "n d"],
    reference: FeatureStatistics,
    smallest: int | None = None,
    points: int = 15,
    seed: int = 0,
) -> Extrapolated:
    """Fits FD(n) = FD∞ + slope/n over `points` numbers of samples from `smallest` to all, each drawn anew.

    Args:
      smallest: the smallest number of samples. None is 5,000 as published, or 2 per effective
        feature, but at most half of the samples.
    Raises: ValueError for fewer samples than `fewest_samples`, where the line may be wrong by any
      amount. ValueError unless 2 <= smallest < n and points >= 3.
    Source: Chong and Forsyth, arXiv 1911.07023, Sec. 4 (15 points from 5,000 of 50,000).
    """
    count = len(features)
    start = min(PUBLISHED, count // 2) if smallest is None else smallest
    fewest = fewest_samples(reference, 2 * start)
    if smallest is None:
        start = min(max(start, -(-fewest // 2)), count // 2)
    if count < fewest or (smallest is not None and 2 <= smallest < fewest / 2):
        raise ValueError(
            f"extrapolate needs at least {fewest} samples, and smallest >= {-(-fewest // 2)}, with this reference, got {count} "
            f"samples and {smallest=}: from fewer than {SAFE} for each effective feature the distance is no line in 1/n."
        )
    if not 2 <= start < count or points < 3:
        raise ValueError(
            f"extrapolate needs 2 <= smallest < {count} (the samples) and points >= 3, got {smallest=}, {points=}."
        )
    rng = np.random.default_rng(seed)
    counts = np.linspace(start, count, points).astype(np.int64)
    subsets = (features[rng.permutation(count)[:number]] for number in counts)
    distances = np.array([FeatureStatistics.of(subset).frechet_distance(reference) for subset in subsets])
    return Extrapolated(*fit_line(counts, distances), counts, distances)


def fit_line(counts: Int[np.ndarray, " k"], distances: Float64[np.ndarray, " k"]) -> tuple[float, float]:
    """FD∞ of the line in 1/n by least squares, and its standard error from the residuals."""
    design = np.stack([np.ones(len(counts)), 1.0 / counts], axis=1)
    coefficients, *_ = np.linalg.lstsq(design, distances, rcond=None)
    residuals = distances - design @ coefficients
    variance = (residuals**2).sum() / (len(counts) - 2) * np.linalg.inv(design.T @ design)[0, 0]
    return float(coefficients[0]), float(np.sqrt(variance))
