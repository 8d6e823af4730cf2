"""Tangential damping of classifier-free guidance (TCFG)."""

import jax.numpy as jnp

from score_sde.denoising.estimate import Estimate
from score_sde.denoising.memory import Memory
from score_sde.guidance.contrast import NullContrast
from score_sde.guidance.scaled import Place, Predicts
from score_sde.internal.broadcast import expand_like
from score_sde.internal.per_example import per_example
from score_sde.internal.pytree import pytree, static


@pytree
class Tangential(NullContrast):
    """y = y(c) + (scale − 1) · (y(c) − P y(∅)), with P a projection on a direction that both answers share.

    c is the condition and ∅ the null condition. The direction is the first right singular vector of
    the matrix whose two rows are y(c) and y(∅), for each image. So the part of y(∅) that differs
    most from y(c) is left out. scale = 1 is the conditional model. There is no scale that gives the
    unconditional model.

    Attributes:
      predicts: the value y that is combined. "eps", which is the score's direction, is the paper's.

    Raises: ValueError as `Scaled`, and for a model without a condition.
    Source: Kwon et al., arXiv 2503.18137, Algorithm 1.
    """

    predicts: Predicts = static(default="eps")

    def combine(self, place: Place, positive: Estimate, negative: Estimate, memory: Memory | None) -> Estimate:
        given, null = (place.value(self.predicts, each) for each in (positive, negative))
        # The left singular vector of a matrix of two rows is (cos θ, sin θ), from its 2×2 products.
        squares, mixed = (per_example(given * given), per_example(null * null)), per_example(given * null)
        angle = 0.5 * jnp.arctan2(2 * mixed, squares[0] - squares[1])
        cosine, sine = (expand_like(part, given) for part in (jnp.cos(angle), jnp.sin(angle)))
        kept = sine * (cosine * given + sine * null)
        return place.shifted(self.predicts, positive, (place.scale - 1) * (given - kept))
