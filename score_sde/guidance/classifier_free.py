"""Classifier-free guidance."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from score_sde.denoising.dynamics import Denoise, Evaluations
from score_sde.denoising.estimate import Estimate
from score_sde.guidance.base import Conditional, Guidance, Observation
from score_sde.internal.broadcast import expand_like
from score_sde.internal.pytree import pytree
from score_sde.sdes.base import SDE, Time


@pytree
class ClassifierFree(Guidance):
    """(x̂0, ε̂) = (x̂0, ε̂)(∅) + scale · ((x̂0, ε̂)(c) − (x̂0, ε̂)(∅)), where c is the condition and ∅ the null condition.

    scale = 1 is the conditional model and scale = 0 the unconditional one. Papers that write (1 + w) have w = scale − 1.
    The network must have been trained with `condition_dropout`: otherwise ∅ is a condition that training never showed.

    One call of the network with twice the batch gives both terms. Outside of the interval only the conditional term is
    computed. Times that differ from image to image are the exception: then both terms are computed for all images, if any
    image is inside.

    Attributes:
      scale: the guidance scale.
      log_snr_min: guides only where log(α²/σ²) >= log_snr_min. None: no bound towards noise.
      log_snr_max: guides only where log(α²/σ²) <= log_snr_max. None: no bound towards data.

    Raises: ValueError where log_snr_min > log_snr_max, or for a model without a condition.
    Source: Ho and Salimans, arXiv 2207.12598, Eq. 6; the interval: Kynkäänniemi et al., arXiv 2404.07724.
    """

    scale: float = 1.0
    log_snr_min: float | None = None
    log_snr_max: float | None = None

    def __post_init__(self):
        low, high = self.log_snr_min, self.log_snr_max
        if low is not None and high is not None and low > high:
            raise ValueError(
                f"ClassifierFree needs log_snr_min <= log_snr_max, got log_snr_min={low}, log_snr_max={high}."
            )

    def wrap(self, model: Denoise, observation: Observation) -> Denoise:
        if not isinstance(model, Conditional):
            raise ValueError(
                f"ClassifierFree needs a denoiser whose condition can be replaced, got {type(model).__name__}; put "
                "classifier_free first in the list of guidance."
            )
        if not model.condition:
            raise ValueError(
                "ClassifierFree needs a model with a condition, got one without; train it on labels or other conditions "
                "with condition_dropout, or remove classifier_free from the guidance."
            )
        return ClassifierFreeDenoiser(model, model.null_condition(), self)


@pytree
class ClassifierFreeDenoiser(Denoise):
    """A denoiser under `ClassifierFree` guidance."""

    model: Conditional
    null: Mapping[str, Array]
    rule: ClassifierFree

    @property
    def sde(self) -> SDE:
        return self.model.sde

    def evaluations(self, t: Time) -> Evaluations:
        """Two evaluations inside of the interval, one outside."""
        return jnp.where(self._is_inside(t), 2, 1) * jnp.asarray(self.model.evaluations(t))

    def __call__(self, x: Float[Array, "b *shape"], t: Time) -> Estimate:
        if self.rule.log_snr_min is None and self.rule.log_snr_max is None:
            return self._guided(x, t)
        return jax.lax.cond(jnp.any(self._is_inside(t)), self._guided, self.model, x, t)

    def _guided(self, x: Float[Array, "b *shape"], t: Time) -> Estimate:
        """Rows 2i and 2i + 1 of the one batch are image i with and without its condition, so that no row changes its device."""
        given, t = self.model.condition or {}, jnp.asarray(t)
        condition = {name: _interleave(values, self.null[name]) for name, values in given.items()}
        both = self.model.with_condition(condition)(_interleave(x, x), _interleave(t, t) if t.ndim else t)
        scale = expand_like(jnp.where(self._is_inside(t), self.rule.scale, 1.0), x)

        def combine(values):
            pairs = values.reshape(-1, 2, *values.shape[1:])
            conditional, unconditional = pairs[:, 0], pairs[:, 1]
            # From the conditional term, so that a scale of 1 gives exactly that.
            return conditional + (scale - 1) * (conditional - unconditional)

        return Estimate(*(combine(values) for values in both))

    def _is_inside(self, t: Time) -> Bool[Array, "..."]:
        log_snr = self.sde.log_snr(jnp.asarray(t))
        inside = jnp.ones(log_snr.shape, bool)
        if self.rule.log_snr_min is not None:
            inside &= log_snr >= self.rule.log_snr_min
        if self.rule.log_snr_max is not None:
            inside &= log_snr <= self.rule.log_snr_max
        return inside


def _interleave(first: Array, second: Array) -> Array:
    """[b, …] and [b, …] -> [2 b, …], rows in turn."""
    return jnp.stack([first, second], axis=1).reshape(-1, *first.shape[1:])
