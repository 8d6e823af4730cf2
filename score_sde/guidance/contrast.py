"""Guidance by two answers of a network: it increases the difference of a positive answer from a negative answer.

Two things vary between rules. A `Pair` gives the two answers: with and without the condition, or
from a good and a weak model. A `Contrast` combines them.
"""

import abc
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from score_sde.denoising.dynamics import Denoise, Evaluations
from score_sde.denoising.estimate import Estimate
from score_sde.denoising.factors import Factors
from score_sde.denoising.memory import Memory
from score_sde.denoising.parameterizations import PARAMETERIZATIONS, Parameterization
from score_sde.guidance.base import Conditional, Guidance, Observation, numbers_as_floats, repeat_rows
from score_sde.guidance.interval import check_interval, has_interval, is_inside
from score_sde.guidance.schedules import Schedule
from score_sde.internal.broadcast import expand_like
from score_sde.internal.companions import owner_of, with_companions
from score_sde.internal.pytree import pytree, static
from score_sde.sdes.base import SDE, Scalar, Time

Predicts = Literal["eps", "x0", "v", "flow"]


def reading(predicts: Predicts) -> Parameterization:
    """The functions that convert between a value of this name and the pair (x̂0, ε̂)."""
    member: Any = PARAMETERIZATIONS[predicts]
    found: Parameterization = member()
    return found


class Place(NamedTuple):
    """The point at which two answers are combined.

    Attributes:
      scale: the scale, shaped to multiply x.
      inside: which images are in the interval, shaped to multiply x.
    """

    sde: SDE
    x: Float[Array, "b *shape"]
    t: Time
    scale: Float[Array, "..."]
    inside: Bool[Array, "..."]

    def value(self, predicts: Predicts, estimate: Estimate) -> Float[Array, "b *shape"]:
        """The output that a network of this parameterization would have given."""
        return reading(predicts).target(*estimate, self.t, self.sde)

    def shifted(self, predicts: Predicts, estimate: Estimate, shift: Float[Array, "b *shape"]) -> Estimate:
        """The pair after `shift` is added to that value. A shift of zero changes no bit."""
        change = reading(predicts).decode(shift, jnp.zeros_like(self.x), self.t, self.sde)
        return Estimate(estimate.x0 + change.x0, estimate.eps + change.eps)


class Pair(abc.ABC):
    """The source of two answers. Each kind is a pytree."""

    positive: Denoise

    @abc.abstractmethod
    def both(self, x: Float[Array, "b *shape"], t: Time) -> tuple[Estimate, Estimate]:
        """(positive, negative) at x_t."""

    @abc.abstractmethod
    def evaluations(self, t: Time) -> Evaluations:
        """The network evaluations of `both`."""

    @abc.abstractmethod
    def repeated(self, number: int) -> "Pair":
        """The same pair with each row repeated `number` times."""


@pytree
class Contrast(Guidance):
    """A rule that combines a positive and a negative answer, at noise levels within an interval.

    Outside of the interval only the positive answer is computed. There is one exception: if the
    times differ between images, and any image is inside, both answers are computed for all images.

    Attributes:
      scale: the guidance scale. 1 is the positive model.
      log_snr_min: guides only where log(α²/σ²) >= log_snr_min. None: no bound towards noise.
      log_snr_max: guides only where log(α²/σ²) <= log_snr_max. None: no bound towards data.
      schedule: w(λ) over λ = log(α²/σ²), which makes the scale 1 + w (scale − 1). None: w = 1.
      rescale: φ in [0, 1]. The combined value y of each image is multiplied by φ
        std(positive)/std(y) + 1 − φ. None: 0.
      rescale_of: the value that `rescale` multiplies. The networks of arXiv 2305.08891 predict v.

    Raises: ValueError where log_snr_min > log_snr_max or rescale is outside of [0, 1].
    Source: the interval: Kynkäänniemi et al., arXiv 2404.07724; `rescale`: Lin et al., arXiv
      2305.08891, Sec. 3.4.
    """

    takes_observation: ClassVar[bool] = False
    is_product: ClassVar[bool] = False  # whether its score is scale · positive + (1 − scale) · negative

    scale: float = 1.0
    log_snr_min: float | None = None
    log_snr_max: float | None = None
    schedule: Schedule | None = None
    rescale: float | None = None
    rescale_of: Predicts = static(default="v")

    def __post_init__(self):
        numbers_as_floats(self)
        check_interval(self)
        if self.rescale is not None and not 0 <= self.rescale <= 1:
            raise ValueError(
                f"{type(self).__name__} needs 0 <= rescale <= 1, got rescale={self.rescale}; None is without."
            )

    @abc.abstractmethod
    def combine(self, place: Place, positive: Estimate, negative: Estimate, memory: Memory | None) -> Estimate:
        """The guided pair, before `rescale`."""

    def memory(self) -> Memory | None:
        """The `Memory` that the rule keeps from call to call, or None."""
        return None

    def contrasted(self, pair: Pair) -> Denoise:
        """The guided denoiser of these two answers."""
        return ContrastDenoiser(pair, self, self.memory())

    def guided(self, pair: Pair, memory: Memory | None, x: Float[Array, "b *shape"], t: Time) -> Estimate:
        """The guided pair for images in the interval, and the positive pair for the others."""
        sde = pair.positive.sde
        positive, negative = pair.both(x, t)
        inside = is_inside(self, sde, t)
        weight = 1.0 if self.schedule is None else self.schedule(sde.log_snr(jnp.asarray(t)))
        scale = 1 + weight * (self.scale - 1)
        place = Place(sde, x, t, expand_like(jnp.asarray(scale, x.dtype), x), expand_like(inside, x))
        found = self._rescaled(place, positive, self.combine(place, positive, negative, memory))
        return Estimate(*(jnp.where(place.inside, *values) for values in zip(found, positive, strict=True)))

    def _rescaled(self, place: Place, positive: Estimate, found: Estimate) -> Estimate:
        if self.rescale is None:
            return found
        wanted, value = (place.value(self.rescale_of, each) for each in (positive, found))
        axes = tuple(range(1, value.ndim))
        ratio = jnp.std(wanted, axis=axes, keepdims=True) / jnp.std(value, axis=axes, keepdims=True)
        return place.shifted(self.rescale_of, found, self.rescale * (ratio - 1) * value)


@pytree
class ContrastDenoiser(Denoise):
    """A pair of answers, combined by a `Contrast`."""

    pair: Pair
    rule: Contrast
    memory: Memory | None

    @property
    def sde(self) -> SDE:
        return self.pair.positive.sde

    def evaluations(self, t: Time) -> Evaluations:
        """The evaluations of both answers inside of the interval, and of the positive answer outside."""
        both, one = (jnp.asarray(each.evaluations(t)) for each in (self.pair, self.pair.positive))
        return jnp.where(is_inside(self.rule, self.sde, t), both, one)

    def __call__(self, x: Float[Array, "b *shape"], t: Time) -> Estimate:
        def guided(x, t):
            return self.rule.guided(self.pair, self.memory, x, t)

        if not has_interval(self.rule):
            return guided(x, t)
        return jax.lax.cond(jnp.any(is_inside(self.rule, self.sde, t)), guided, self.pair.positive, x, t)

    @property
    def powers(self) -> tuple[Scalar | float, ...]:
        """The powers of the positive and of the negative density.

        Raises: ValueError where the rule is not a product with constant powers.
        """
        rule = self.rule
        if not rule.is_product or has_interval(rule) or rule.schedule is not None or rule.rescale is not None:
            raise ValueError(
                f"{type(rule).__name__} is no product of densities with constant powers, as FeynmanKac needs it; use "
                "classifier_free or autoguidance without log_snr_min, log_snr_max, schedule and rescale."
            )
        return rule.scale, 1 - rule.scale

    def factors(self, x: Float[Array, "b *shape"], t: Time) -> Factors:
        """The positive and the negative factor."""
        return Factors(self.powers, self.pair.both(x, t))

    def repeated(self, number: int) -> "ContrastDenoiser":
        """The same denoiser with each row repeated `number` times."""
        return ContrastDenoiser(self.pair.repeated(number), self.rule, self.memory)


@pytree
class ConditionPair(Pair):
    """One denoiser with its condition and with another condition, `negative`, as one call with twice the batch."""

    positive: Conditional
    negative: Mapping[str, Array]

    def evaluations(self, t: Time) -> Evaluations:
        return 2 * jnp.asarray(self.positive.evaluations(t))

    def repeated(self, number: int) -> "ConditionPair":
        positive: Any = repeat_rows(self.positive, number)
        return ConditionPair(positive, {name: jnp.repeat(rows, number, axis=0) for name, rows in self.negative.items()})

    def both(self, x: Float[Array, "b *shape"], t: Time) -> tuple[Estimate, Estimate]:
        """Both answers. Rows 2i and 2i + 1 are image i with the two conditions, so no row changes its device."""
        given, t = self.positive.condition or {}, jnp.asarray(t)
        condition = {name: _interleave(values, self.negative[name]) for name, values in given.items()}
        found = self.positive.with_condition(condition)(_interleave(x, x), _interleave(t, t) if t.ndim else t)
        pairs = [values.reshape(-1, 2, *values.shape[1:]) for values in found]
        return Estimate(*(pair[:, 0] for pair in pairs)), Estimate(*(pair[:, 1] for pair in pairs))


def _interleave(first: Array, second: Array) -> Array:
    """[b, …] and [b, …] -> [2 b, …], rows in turn."""
    return jnp.stack([first, second], axis=1).reshape(-1, *first.shape[1:])


@pytree
class NullContrast(Contrast):
    """A `Contrast` of a conditional model with itself under the null condition, which is the negative answer.

    The network must be trained with `condition_dropout`. Otherwise training never shows the null
    condition.

    Attributes:
      drop: the names of the conditions that the negative answer lacks. It keeps the others. None is
        all conditions. With several conditions, training must drop them independently.

    Raises: ValueError as `Contrast`, for a model without a condition, and for a name in `drop` that
      is no condition of the model.
    """

    drop: tuple[str, ...] | None = static(default=None)

    def wrap(self, model: Denoise, observation: Observation) -> Denoise:
        name = type(self).__name__
        if not isinstance(model, Conditional):
            raise ValueError(
                f"{name} needs a denoiser whose condition can be replaced, got {type(model).__name__}; put it first in the "
                "list of guidance."
            )
        if not model.condition:
            raise ValueError(
                f"{name} needs a model with a condition, got one without; train it on labels or other conditions with "
                "condition_dropout, or remove the rule from the guidance."
            )
        return self.contrasted(ConditionPair(model, self._negative(model, model.condition)))

    def _negative(self, model: Conditional, given: Mapping[str, Array]) -> Mapping[str, Array]:
        null = model.null_condition()
        if self.drop is None:
            return null
        shapes = {name: values.shape[1:] for name, values in given.items()}
        known = [name for name in shapes if owner_of(name, shapes) is None]
        if not self.drop or not set(self.drop) <= set(known):
            raise ValueError(
                f"{type(self).__name__} needs drop to name conditions of the model, {known}, got {list(self.drop)}; None is "
                "all of them."
            )
        return {**given, **{name: null[name] for name in with_companions(list(self.drop), shapes)}}


def linear(positive: Estimate, negative: Estimate, scale: Float[Array, "..."]) -> Estimate:
    """negative + scale · (positive − negative), written from the positive answer.

    A scale of 1 then gives exactly the positive answer.
    """
    return Estimate(*(p + (scale - 1) * (p - n) for p, n in zip(positive, negative, strict=True)))
