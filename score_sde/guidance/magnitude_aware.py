"""Magnitude-aware guidance (MAMBO-G)."""

import jax.numpy as jnp

from score_sde.denoising.estimate import Estimate
from score_sde.denoising.memory import Memory
from score_sde.guidance.contrast import NullContrast
from score_sde.guidance.scaled import Place, Predicts
from score_sde.internal.broadcast import expand_like
from score_sde.internal.per_example import norm
from score_sde.internal.pytree import pytree, static


@pytree
class MagnitudeAware(NullContrast):
    """y = y(∅) + w · (y(c) − y(∅)), with w = 1 + (scale − 1) exp(−alpha ‖y(c) − y(∅)‖/‖y(∅)‖) for each image.

    c is the condition and ∅ the null condition. The scale of an image falls where the two answers
    differ much, as they do in the first steps of a flow model. scale = 1 is the conditional model.

    Attributes:
      alpha: the speed at which the scale falls. 0 is classifier-free guidance.
      predicts: the value y that is combined. "flow", which is ε̂ − x̂0, is the paper's.

    Raises: ValueError as `Scaled`, for a model without a condition, and for alpha < 0.
    Source: Zhu et al., arXiv 2508.03442.
    """

    alpha: float = 8.0
    predicts: Predicts = static(default="flow")

    def __post_init__(self):
        super().__post_init__()
        if not self.alpha >= 0:
            raise ValueError(f"MagnitudeAware needs alpha >= 0, got alpha={self.alpha}; 0 is classifier-free guidance.")

    def combine(self, place: Place, positive: Estimate, negative: Estimate, memory: Memory | None) -> Estimate:
        given, null = (place.value(self.predicts, each) for each in (positive, negative))
        size = norm(null)
        ratio = norm(given - null) / jnp.where(size > 0, size, 1.0)
        damped = expand_like(jnp.exp(-self.alpha * ratio), given)
        return place.shifted(self.predicts, positive, (place.scale - 1) * damped * (given - null))
