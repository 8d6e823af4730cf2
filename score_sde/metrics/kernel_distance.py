"""The kernel distance (KID): the squared maximum mean discrepancy of two sets of features under a cubic kernel."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int

from score_sde.metrics.feature_sets import Features, OtherFeatures, on_host


class KernelDistance(NamedTuple):
    """`mean` and `std` over subsets, and the standard error of the mean, std/√(number of subsets)."""

    mean: float
    std: float
    standard_error: float


def squared_mmd(x: Features, y: OtherFeatures) -> float:
    """Σ_{i≠j} k(xᵢ, xⱼ)/n(n−1) + Σ_{i≠j} k(yᵢ, yⱼ)/m(m−1) − 2 Σ k(xᵢ, yⱼ)/nm, with k(a, b) = (a·b/d + 1)³, in float64.

    The estimate is unbiased. For two samples of one distribution it is 0 on average, so it is often
    negative.

    Raises: ValueError for fewer than two examples, values that are not finite, or different numbers
      of features.
    Source: Gretton et al., JMLR 13 (2012), Eq. 3; Bińkowski et al., arXiv 1801.01401.
    """
    if min(len(x), len(y)) < 2:
        raise ValueError(
            f"squared_mmd needs at least 2 examples of each, got {len(x)} and {len(y)}; give more samples."
        )
    a, b = (rows.astype(np.float64) for rows in on_host("squared_mmd", x, y))

    def kernel(a: Float64[np.ndarray, "n d"], b: Float64[np.ndarray, "m d"]) -> Float64[np.ndarray, "n m"]:
        k = a @ b.T / a.shape[1] + 1
        return k * k * k  # numpy takes several times as long for k**3

    def within(a: Float64[np.ndarray, "n d"]) -> float:
        k = kernel(a, a)
        return (k.sum() - np.trace(k)) / (len(a) * (len(a) - 1))

    return float(within(a) + within(b) - 2 * kernel(a, b).mean())


def kernel_distance(
    x: Features,
    y: OtherFeatures,
    num_subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
    indices: Int[np.ndarray, "k 2 s"] | None = None,
) -> KernelDistance:
    """The mean and spread of `squared_mmd` over random subsets, drawn without replacement within each subset.

    Args:
      seed: the random seed of the subsets. They are drawn as in torch-fidelity: with the same seed,
        and features 1 as x, the numbers are the same.
      indices: the subsets themselves, as rows of x and of y, instead of a draw.
    Error: `standard_error` is the error of the mean if the subsets are disjoint. They are parts of
      the same finite sets, so in general it is too small.
    Raises: ValueError where a subset is larger than a set, for values that are not finite, or for
      different numbers of features.
    Source: Bińkowski et al., arXiv 1801.01401, Sec. 4. It makes the draws of torch-fidelity
      0.4.0's metric_kid.py.
    """
    x, y = on_host("kernel_distance", x, y)
    if indices is None:
        if not 2 <= subset_size <= min(len(x), len(y)):
            raise ValueError(
                f"kernel_distance needs 2 <= subset_size <= {min(len(x), len(y))} (the smaller set), got {subset_size}; "
                "give more samples or a smaller subset_size."
            )
        rs, sizes = np.random.RandomState(seed), (len(x), len(y))
        indices = np.array([[rs.choice(n, subset_size, replace=False) for n in sizes] for _ in range(num_subsets)])
    values = np.array([squared_mmd(x[i], y[j]) for i, j in indices])
    return KernelDistance(float(values.mean()), float(values.std()), float(values.std() / np.sqrt(len(values))))
