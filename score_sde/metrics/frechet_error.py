"""How much a Fréchet distance would differ between sets of samples, from one set.

With m, C of the samples and m', C' = R Rᵀ of the reference, the distance changes with the share of one sample x by

    φ(x) = 2 (m − m')·(x − m) + |x − m|² − (x − m)ᵀ A (x − m) + constant,   A = R (Rᵀ C R)^−½ Rᵀ,

its influence; the derivative of tr (Rᵀ C R)^½ in C is A/2. A bootstrap's variance tends to that of φ, over n.
"""

import numpy as np
from jaxtyping import Array, Float

from score_sde.metrics.features import FeatureStatistics

BLOCK = 4096  # rows at once: 50,000 × 2048 in float64 would be 0.8 GB a copy


def frechet_standard_error(features: Float[np.ndarray | Array, "n *shape"], reference: FeatureStatistics) -> float:
    """√(Var φ(xᵢ) / n): the spread of the distance over sets of n samples, the reference fixed.

    Costs one eigendecomposition, where a bootstrap takes a hundred.

    Error: of first order, so it leaves out the bias. Up to 1.5 times too large where nearly all of the distance is
    bias; within a few percent where most of it is not.
    Raises: ValueError for fewer than two examples, or values that are not finite.
    Source: the infinitesimal jackknife of Efron, The jackknife, the bootstrap and other resampling plans (1982), ch. 6.
    """
    statistics = FeatureStatistics.of(features)
    squared, vectors = np.linalg.eigh(reference.root.T @ statistics.cov @ reference.root)  # (Rᵀ C R)^½ has their roots
    seen = squared > len(squared) * np.finfo(np.float64).eps * squared.max(initial=0)
    whiten = reference.root @ (vectors[:, seen] / squared[seen] ** 0.25)  # A = W Wᵀ
    shift, influence = statistics.mean - reference.mean, []
    for start in range(0, len(features), BLOCK):
        rows = np.asarray(features[start : start + BLOCK]).astype(np.float64)
        rows = rows.reshape(len(rows), -1) - statistics.mean
        influence.append(2 * rows @ shift + (rows**2).sum(axis=1) - ((rows @ whiten) ** 2).sum(axis=1))
    return float(np.concatenate(influence).std(ddof=1) / np.sqrt(len(features)))
