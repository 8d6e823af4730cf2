"""CFG-Zero*: classifier-free guidance with a fitted size of the unconditional velocity."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from score_sde.denoising.dynamics import Denoise, Evaluations
from score_sde.denoising.estimate import Estimate
from score_sde.denoising.memory import Memory
from score_sde.guidance.base import Around
from score_sde.guidance.contrast import NullContrast, Pair
from score_sde.guidance.scaled import Place, Predicts, reading
from score_sde.internal.broadcast import expand_like
from score_sde.internal.per_example import per_example
from score_sde.internal.pytree import pytree, static
from score_sde.sdes.base import Time


@pytree
class CFGZeroStar(NullContrast):
    """v = s v(∅) + scale · (v(c) − s v(∅)), with s = ⟨v(c), v(∅)⟩/‖v(∅)‖² of each image.

    c is the condition and ∅ the null condition. scale = 1 is the conditional model. scale = 0 is s
    times the unconditional velocity.

    Attributes:
      predicts: the value v that is combined. "flow", which is ε̂ − x̂0, is the paper's. "v", "eps"
        and "x0" are alternatives.
      zero_below: where log(α²/σ²) < zero_below, v is 0 and the network is not called. None:
        nowhere. This is the paper's zero initialization; the paper has it in the first 4 % of the
        steps.

    Raises: ValueError as `Contrast`, and for a model without a condition.
    Source: Fan et al., arXiv 2503.18886, Algorithm 1.
    """

    predicts: Predicts = static(default="flow")
    zero_below: float | None = None

    def contrasted(self, pair: Pair) -> Denoise:
        guided = super().contrasted(pair)
        return guided if self.zero_below is None else ZeroAtFirst(guided, self.zero_below, self.predicts)

    def combine(self, place: Place, positive: Estimate, negative: Estimate, memory: Memory | None) -> Estimate:
        given, null = (place.value(self.predicts, each) for each in (positive, negative))
        square = per_example(null * null, place.weight)
        fitted = expand_like(per_example(given * null, place.weight) / jnp.where(square > 0, square, 1.0), given)
        return place.shifted(self.predicts, positive, (place.scale - 1) * (given - fitted * null))


@pytree
class ZeroAtFirst(Around):
    """`model`, but with a velocity of 0 where log(α²/σ²) < below."""

    model: Denoise
    below: float
    predicts: Predicts = static()

    def _is_zero(self, t: Time) -> Bool[Array, "..."]:
        return self.sde.log_snr(jnp.asarray(t)) < self.below

    def evaluations(self, t: Time) -> Evaluations:
        """0 below, and the evaluations of the model above."""
        return jnp.where(self._is_zero(t), 0, jnp.asarray(self.model.evaluations(t)))

    def __call__(self, x: Float[Array, "b *shape"], t: Time) -> Estimate:
        is_zero = self._is_zero(t)
        still = reading(self.predicts).decode(jnp.zeros_like(x), x, t, self.sde)

        def moving():
            found = self.model(x, t)
            choose = expand_like(is_zero, x)
            return Estimate(*(jnp.where(choose, *values) for values in zip(still, found, strict=True)))

        return jax.lax.cond(jnp.all(is_zero), lambda: still, moving)
