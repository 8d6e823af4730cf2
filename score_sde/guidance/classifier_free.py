"""Classifier-free guidance."""

from score_sde.denoising.estimate import Estimate
from score_sde.denoising.memory import Memory
from score_sde.guidance.contrast import NullContrast, linear
from score_sde.guidance.scaled import Place
from score_sde.internal.pytree import pytree


@pytree
class ClassifierFree(NullContrast):
    """(x̂0, ε̂) = (x̂0, ε̂)(∅) + scale · ((x̂0, ε̂)(c) − (x̂0, ε̂)(∅)), where c is the condition and ∅ the null condition.

    scale = 1 is the conditional model, and scale = 0 is the unconditional model. Papers that write
    (1 + w) have w = scale − 1. The network must be trained with `condition_dropout`. Otherwise
    training never shows the null condition.

    One call of the network with twice the batch gives both terms. Outside of the interval only the
    conditional term is computed.

    Raises: ValueError as `Contrast`, and for a model without a condition.
    Source: Ho and Salimans, arXiv 2207.12598, Eq. 6.
    """

    is_product = True

    def combine(self, place: Place, positive: Estimate, negative: Estimate, memory: Memory | None) -> Estimate:
        return linear(positive, negative, place.scale)
