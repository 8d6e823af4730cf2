"""Memorization: how near samples lie to the training data, compared with held-out images."""

from typing import Any

import numpy as np
from jaxtyping import Float

from score_sde.metrics.base import Inputs, Metric, Needs, Result
from score_sde.metrics.neighbours import nearest

MOST = 10_000  # the most samples that are compared
PICTURED = 8
QUANTILE = 0.01

Features = Float[np.ndarray, "n d"]


class Memorization(Metric):
    """The fraction of samples nearer to training data than all but 1 % of held-out images; see `memorization`.

    Error: binomial.
    """

    name = "memorization"
    title = "share of memorized samples"
    needs = Needs(splits=("train", "eval"))
    error = "standard_error"

    def compute(self, inputs: Inputs) -> dict[str, Result]:
        train, held_out = (inputs.split_reference(split).rows(self.name) for split in ("train", "eval"))
        return {self.name: memorization(inputs.pool, train, held_out, inputs.first_index)}


def memorization(
    samples: Features, train: Float[np.ndarray, "m d"], held_out: Float[np.ndarray, "k d"], first_index: int = 0
) -> dict[str, Any]:
    """The fraction of samples nearer to training data than all but 1 % of held-out images, and the closest pairs.

    A model of the right distribution has 0.01, if held-out images have the training distribution. A
    larger number means memorization, or samples that are simpler than images. Look at the pairs to
    see which.
    """
    samples = samples[:MOST]
    distances, index = nearest(samples, train)
    of_held_out, _ = nearest(held_out, train)
    share = float((distances < np.quantile(of_held_out, QUANTILE)).mean())
    order = np.argsort(distances, kind="stable")[:PICTURED]
    closest = [
        {"sample": int(first_index + i), "training_image": int(index[i]), "distance": float(distances[i])}
        for i in order
    ]
    return {
        "value": share,
        "standard_error": float(np.sqrt((share + 1 / len(samples)) * (1 - share) / len(samples))),
        "expected": QUANTILE,
        "median_distance": float(np.median(distances)),
        "median_distance_held_out": float(np.median(of_held_out)),
        "closest": closest,
        "note": f"{len(samples)} samples; share nearer than the 1 % quantile of {len(held_out)} held-out images",
    }
