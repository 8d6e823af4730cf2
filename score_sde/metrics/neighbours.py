"""Precision, recall, density and coverage: fractions of two sets of features that lie among each other's neighbours."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int

from score_sde.metrics.feature_sets import Features, OtherFeatures, on_host

BLOCK = 2048  # rows of the distance matrix per block; 50,000 × 50,000 distances would be 20 GB


class Neighbourhoods(NamedTuple):
    """Fractions in [0, 1]. `density` has no upper limit, and is 1 on average for two samples of one distribution."""

    precision: float
    recall: float
    density: float
    coverage: float


def neighbourhoods(real: Features, generated: OtherFeatures, k: int = 5) -> Neighbourhoods:
    """Fractions of each set within the other, with a ball around each example up to its k-th nearest of its own set.

    precision: the fraction of generated examples in any real ball. recall: the fraction of real
    examples in any generated ball. density: the mean number of real balls around a generated
    example, over k. coverage: the fraction of real balls that hold a generated example.

    A ball is open: an example at exactly its radius is outside, as in the package prdc. In Eq. 1 of
    1904.06991 it is inside (<=). The two differ only for exact ties, such as repeated samples.

    Error: the numbers depend on both sizes. Compare only numbers of equal sizes and k (papers:
      10,000 or 50,000 each; k = 3 or 5).
    Raises: ValueError unless 1 <= k < both sizes, for values that are not finite, or different
      numbers of features.
    Source: Kynkäänniemi et al., arXiv 1904.06991, Eqs. 1 and 2; Naeem et al., arXiv 2002.09797,
      Eqs. 4 and 5.
    """
    real, generated = on_host("neighbourhoods", real, generated)
    if not 1 <= k < min(len(real), len(generated)):
        raise ValueError(
            f"neighbourhoods needs 1 <= k < {min(len(real), len(generated))} (the smaller set), got {k}; give more samples "
            "or a smaller k."
        )
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


def nearest(queries: Features, references: OtherFeatures) -> tuple[Float64[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """(the distance from each query to its nearest reference, the index of that reference).

    A small distance to training data is a sign of memorization.

    Raises: ValueError for values that are not finite, or different numbers of features.
    """
    queries, references = on_host("nearest", queries, references)
    best = [(block.min(axis=1), block.argmin(axis=1)) for block, _ in _squared_distances(queries, references)]
    squared, index = (np.concatenate(parts) for parts in zip(*best, strict=True))
    return np.sqrt(squared), index


def similar_pairs(rows: Features, count: int) -> tuple[Float64[np.ndarray, " k"], Int[np.ndarray, "k 2"]]:
    """The `count` pairs i < j with the largest cosine xᵢ·xⱼ/|xᵢ||xⱼ|, largest first. The cosine of a row of zeros is 0.

    With fewer pairs, all are returned. Every pair is compared: n² d/2 multiplications in float32.
    50,000 rows of 768 numbers took 26 s on two busy cores.

    Error: the cosines are computed again in float64. Pairs closer than 1e-6 may change places at
      the end of the list.
    Raises: ValueError unless count >= 1, or for values that are not finite.
    """
    if count < 1:
        raise ValueError(f"similar_pairs needs count >= 1, got {count}.")
    (rows,) = on_host("similar_pairs", rows)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    cosines, pairs = np.zeros(0, np.float32), np.zeros((0, 2), np.int64)
    for start in range(0, len(unit), BLOCK):
        block = unit[start : start + BLOCK] @ unit[start:].T
        block[:, : len(block)][np.tril_indices(len(block))] = -np.inf  # itself, and pairs the other way round
        if len(cosines) < count:  # take the best of the block; later only what is better than the worst so far
            floor = np.nextafter(np.partition(block, max(block.size - count, 0), axis=None)[-count:].min(), -np.inf)
        else:
            floor = cosines[-1]
        found = np.argwhere(block > floor)
        cosines = np.concatenate([cosines, block[tuple(found.T)]])
        order = np.argsort(-cosines, kind="stable")[:count]
        cosines, pairs = cosines[order], np.concatenate([pairs, found + start])[order]
    first, second = (rows[side].astype(np.float64) for side in pairs.T)
    products = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    exact = (first * second).sum(axis=1) / np.where(products > 0, products, 1)
    order = np.argsort(-exact, kind="stable")
    return exact[order], pairs[order]


def _radii(x: Float[np.ndarray, "n d"], k: int) -> Float64[np.ndarray, " n"]:
    """The squared distance of each example to its k-th nearest other example."""
    blocks = []
    for distances, rows in _squared_distances(x, x):
        distances[np.arange(len(distances)), rows] = 0.0  # its own, which rounding may have moved
        blocks.append(np.partition(distances, k, axis=1)[:, k])
    return np.concatenate(blocks)


def _squared_distances(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]
) -> Iterator[tuple[Float64[np.ndarray, "b m"], Int[np.ndarray, " b"]]]:
    """|xᵢ − yⱼ|² in blocks of rows, with the row numbers. Both sets are centred first, against cancellation."""
    centre = y.mean(axis=0, dtype=np.float64)
    x, y = x.astype(np.float64) - centre, y.astype(np.float64) - centre
    norms = (y**2).sum(axis=1)
    for start in range(0, len(x), BLOCK):
        block = x[start : start + BLOCK]
        squared = (block**2).sum(axis=1)[:, None] + norms[None] - 2 * block @ y.T
        yield np.maximum(squared, 0.0), np.arange(start, start + len(block))
