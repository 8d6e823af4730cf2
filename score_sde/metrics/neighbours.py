"""Precision, recall, density and coverage: how two sets of features lie among each other's nearest neighbours."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int

Features = Float[np.ndarray, "n d"]
BLOCK = 2048  # rows of the distance matrix at once: 50,000 × 50,000 distances would be 20 GB


class Neighbourhoods(NamedTuple):
    """Shares in [0, 1]; `density` has no upper end, and is 1 on average for two samples of one distribution."""

    precision: float
    recall: float
    density: float
    coverage: float


def neighbourhoods(real: Features, generated: Float[np.ndarray, "m d"], k: int = 5) -> Neighbourhoods:
    """Shares of each set within the other, with balls around each example that reach to its k-th nearest of its own set.

    precision: share of generated in any real ball; recall: share of real in any generated ball; density: mean number of
    real balls around a generated example, over k; coverage: share of real balls that hold a generated example.

    Error: depends on both sizes: compare only numbers of equal sizes and k (papers: 10,000 or 50,000 each; k = 3 or 5).
    Raises: ValueError unless 1 <= k < both sizes.
    Source: Kynkäänniemi et al., arXiv 1904.06991, Eqs. 1 and 2; Naeem et al., arXiv 2002.09797, Eqs. 4 and 5.
    """
    if not 1 <= k < min(len(real), len(generated)):
        raise ValueError(f"neighbourhoods needs 1 <= k < {min(len(real), len(generated))} (the smaller set), got {k}.")
    real_radius, generated_radius = _radii(real, k), _radii(generated, k)
    in_real = np.zeros(len(generated), np.int64)
    covered, recalled = [], []
    for distances, rows in _squared_distances(real, generated):
        inside = distances < real_radius[rows, None]
        in_real += inside.sum(axis=0)
        covered.append(inside.any(axis=1))
        recalled.append((distances < generated_radius[None]).any(axis=1))
    return Neighbourhoods(
        float((in_real > 0).mean()),
        float(np.concatenate(recalled).mean()),
        float(in_real.mean() / k),
        float(np.concatenate(covered).mean()),
    )


def nearest(
    queries: Features, references: Float[np.ndarray, "m d"]
) -> tuple[Float64[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """The distance from each query to its nearest reference, and which one that is: what a model has memorized is near."""
    best = [(block.min(axis=1), block.argmin(axis=1)) for block, _ in _squared_distances(queries, references)]
    squared, index = (np.concatenate(parts) for parts in zip(*best, strict=True))
    return np.sqrt(squared), index


def _radii(x: Features, k: int) -> Float64[np.ndarray, " n"]:
    """The squared distance of each example to its k-th nearest other one."""
    blocks = []
    for distances, rows in _squared_distances(x, x):
        distances[np.arange(len(distances)), rows] = 0.0  # its own, which rounding may have moved
        blocks.append(np.partition(distances, k, axis=1)[:, k])
    return np.concatenate(blocks)


def _squared_distances(
    x: Features, y: Float[np.ndarray, "m d"]
) -> Iterator[tuple[Float64[np.ndarray, "b m"], Int[np.ndarray, " b"]]]:
    """|xᵢ − yⱼ|² in blocks of rows, with their numbers. Both are centred first, against cancellation."""
    centre = y.mean(axis=0, dtype=np.float64)
    x, y = x.astype(np.float64) - centre, y.astype(np.float64) - centre
    norms = (y**2).sum(axis=1)
    for start in range(0, len(x), BLOCK):
        block = x[start : start + BLOCK]
        squared = (block**2).sum(axis=1)[:, None] + norms[None] - 2 * block @ y.T
        yield np.maximum(squared, 0.0), np.arange(start, start + len(block))
