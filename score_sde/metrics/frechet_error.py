"""How much a Fréchet distance would differ between sets of samples, from one set.

With m, C of the samples and m', C' = R Rᵀ of the reference, the distance changes with the share of one sample x by

    φ(x) = 2 (m − m')·(x − m) + |x − m|² − (x − m)ᵀ A (x − m) + constant,   A = R (Rᵀ C R)^−½ Rᵀ,

its influence; the derivative of tr (Rᵀ C R)^½ in C is A/2. A bootstrap's variance tends to that of φ, over n.
"""

import numpy as np
from jaxtyping import Array, Float

from score_sde.metrics.statistics import FeatureStatistics

BLOCK = 4096  # rows at once: 50,000 × 2048 in float64 would be 0.8 GB a copy


def frechet_standard_error(features: Float[np.ndarray | Array, "n *shape"], reference: FeatureStatistics) -> float:
    """√(Var φ(xᵢ) / n): the spread of the distance over sets of n samples, the reference fixed.

    Costs one eigendecomposition, where a bootstrap takes a hundred. With fewer samples than features its matrix is n × n.

    Error: of first order, so it leaves out the bias. Up to 1.5 times too large where nearly all of the distance is
    bias; within a few percent where most of it is not.
    Raises: ValueError for fewer than two examples, or values that are not finite.
    Source: the infinitesimal jackknife of Efron, The jackknife, the bootstrap and other resampling plans (1982), ch. 6.
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

    With thin R = V S Uᵀ it is (Rᵀ C R)^−½ = U S⁻¹ Uᵀ, so that row i has the quadratic form (n − 1) Σₖ Vᵢₖ² Sₖ.
    """
    left, singular, _ = np.linalg.svd(reference.within(thin), full_matrices=False)
    rows = thin * np.sqrt(len(thin) - 1)
    return 2 * rows @ shift + (rows**2).sum(axis=1) - (len(thin) - 1) * left**2 @ singular
