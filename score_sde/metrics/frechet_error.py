"""The standard error of a Fréchet distance over sets of samples, from one set.

Let m, C belong to the samples and m', C' = R Rᵀ to the reference. The derivative of the distance in
the weight of one sample x is its influence

    φ(x) = 2 (m − m')·(x − m) + |x − m|² − (x − m)ᵀ A (x − m) + constant,   A = R (Rᵀ C R)^−½ Rᵀ.

The derivative of tr (Rᵀ C R)^½ in C is A/2. The variance of a bootstrap tends to the variance of φ,
over n.
"""

import numpy as np
from jaxtyping import Array, Float

from score_sde.metrics.statistics import FeatureStatistics

BLOCK = 4096  # rows per block; 50,000 × 2048 in float64 would be 0.8 GB per copy


def frechet_standard_error(features: Float[np.ndarray | Array, "n *shape"], reference: FeatureStatistics) -> float:
    """√(Var φ(xᵢ) / n): the spread of the distance over sets of n samples, for a fixed reference.

    Cost: one eigendecomposition, where a bootstrap takes a hundred. With fewer samples than
      features its matrix is n × n.
    Error: it is of first order, so it leaves out the bias. It is up to 1.5 times too large where
      nearly all of the distance is bias, and right within a few percent where most of the distance
      is not bias.
    Raises: ValueError for fewer than two examples, or values that are not finite.
    Source: the infinitesimal jackknife of Efron, The jackknife, the bootstrap and other resampling
      plans (1982), ch. 6.
    """
    statistics = FeatureStatistics.of(features)
    shift = statistics.mean - reference.mean
    if statistics.thin is not None:
        influence = _thin_influence(statistics.thin, shift, reference)
        return float(influence.std(ddof=1) / np.sqrt(len(features)))
    squared, vectors = np.linalg.eigh(reference.root.T @ statistics.cov @ reference.root)  # (Rᵀ C R)^½ has their roots
    seen = squared > len(squared) * np.finfo(np.float64).eps * squared.max(initial=0)
    whiten = reference.root @ (vectors[:, seen] / squared[seen] ** 0.25)  # A = W Wᵀ
    blocks = []
    for start in range(0, len(features), BLOCK):
        rows = np.asarray(features[start : start + BLOCK]).astype(np.float64)
        rows = rows.reshape(len(rows), -1) - statistics.mean
        blocks.append(2 * rows @ shift + (rows**2).sum(axis=1) - ((rows @ whiten) ** 2).sum(axis=1))
    return float(np.concatenate(blocks).std(ddof=1) / np.sqrt(len(features)))


def _thin_influence(
    thin: Float[np.ndarray, "n d"], shift: Float[np.ndarray, " d"], reference: FeatureStatistics
) -> Float[np.ndarray, " n"]:
    """φ of every sample from the n × n problem, where the samples less m are √(n − 1) times the rows of `thin`.

    With thin R = V S Uᵀ, (Rᵀ C R)^−½ is U S⁻¹ Uᵀ. So row i has the quadratic form (n − 1) Σₖ Vᵢₖ²
    Sₖ.
    """
    left, singular, _ = np.linalg.svd(reference.within(thin), full_matrices=False)
    rows = thin * np.sqrt(len(thin) - 1)
    return 2 * rows @ shift + (rows**2).sum(axis=1) - (len(thin) - 1) * left**2 @ singular
