"""The Inception Score: how certain a classifier is of each sample, and how much its answers differ between samples."""

import dataclasses
import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float
from scipy.special import log_softmax, logsumexp

from score_sde.metrics.base import Inputs, Metric, Needs, Result
from score_sde.metrics.feature_sets import on_host
from score_sde.metrics.frechet import CUSTOMARY


@dataclasses.dataclass(frozen=True)
class InceptionScore(Metric):
    """The Inception Score of the classifier's logits; see the function `inception_score`.

    Attributes:
      most_splits: the largest number of splits. Fewer samples have one split each.
    Error: the standard deviation over the splits, as published. The spread over seeds is a better
      error.
    Source: Salimans et al., arXiv 1606.03498, Sec. 4.
    """

    most_splits: int = 10

    name = "is"
    results = ("inception_score", "classifier_score")
    title = "Inception Score"
    needs = Needs(outputs=("pool", "logits"))
    better = "higher"
    error = "split_sd"

    def compute(self, inputs: Inputs) -> dict[str, Result]:
        splits = min(self.most_splits, len(inputs.pool))
        score = inception_score(inputs.rows("logits"), num_splits=splits)
        return {inputs.named(self.results): {"value": score.mean, "split_sd": score.std, "splits": splits}}

    def warnings(self, inputs: Inputs) -> list[str]:
        """A warning for another number of samples than in the papers."""
        count, name = len(inputs.pool), inputs.named(self.results)
        if count == CUSTOMARY:
            return []
        text = f"{name} is of {count:,} samples in {min(self.most_splits, count)} splits, and published numbers are of "
        return [f"{text}{CUSTOMARY:,} in {self.most_splits}: it grows with the number in a split."]


class OverSplits(NamedTuple):
    """The mean and the standard deviation over the splits."""

    mean: float
    std: float


def inception_score(
    logits: Float[np.ndarray | Array, "n classes"], num_splits: int = 10, seed: int | None = None
) -> OverSplits:
    """exp of the mean over examples of KL(p(y | x) ‖ p(y)), for each split of the examples, in float64.

    Args:
      seed: the random seed of the order in which examples are split. None leaves their order.
    Error: it grows with the size of a split. The published numbers are 10 splits of 50,000 samples.
    Raises: ValueError for more splits than examples, or values that are not finite.
    Source: Salimans et al., arXiv 1606.03498, Sec. 4.
    """
    if not 1 <= num_splits <= len(logits):
        raise ValueError(f"inception_score needs 1 <= num_splits <= {len(logits)} (the examples), got {num_splits}.")
    (logits,) = on_host("inception_score", logits)
    order = np.arange(len(logits)) if seed is None else np.random.RandomState(seed).permutation(len(logits))
    log_p = log_softmax(logits[order].astype(np.float64), axis=1)
    bounds = [len(logits) * i // num_splits for i in range(num_splits + 1)]
    scores = []
    for start, stop in itertools.pairwise(bounds):
        part = log_p[start:stop]
        p = np.exp(part)
        log_marginal = logsumexp(part, axis=0) - np.log(len(part))  # stays finite where p underflows
        scores.append(np.exp((p * (part - log_marginal[None])).sum(axis=1).mean()))
    return OverSplits(float(np.mean(scores)), float(np.std(scores)))
