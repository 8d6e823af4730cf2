"""Guidance by two answers of a network: it increases the difference of a positive answer from a negative answer.

Two things vary between rules. A `Pair` gives the two answers: with and without the condition, or
from a good and a weak model. A `Contrast` combines them.
"""

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.denoising.dynamics import Denoise, Evaluations
from score_sde.denoising.estimate import Estimate
from score_sde.denoising.factors import Factors
from score_sde.denoising.memory import Memory
from score_sde.guidance.base import Conditional, Observation, repeat_rows
from score_sde.guidance.beside import Answers, Ask, beside, in_one_call, plain
from score_sde.guidance.interval import has_interval, is_inside
from score_sde.guidance.scaled import Place, Scaled
from score_sde.internal.companions import owner_of, with_companions
from score_sde.internal.per_example import Weight
from score_sde.internal.pytree import pytree, static
from score_sde.sdes.base import SDE, Scalar, Time


class Pair(abc.ABC):
    """The source of two answers. Each kind is a pytree."""

    positive: Denoise

    @abc.abstractmethod
    def both(self, x: Float[Array, "b *shape"], t: Time) -> tuple[Estimate, Estimate]:
        """(positive, negative) at x_t."""

    @abc.abstractmethod
    def beside(self, x: Float[Array, "b *shape"], t: Time, ask: Ask) -> tuple[Answers, Estimate]:
        """(the answers of `positive` with what is asked for beside it, negative) at x_t."""

    @abc.abstractmethod
    def evaluations(self, t: Time) -> Evaluations:
        """The network evaluations of `both`."""

    @abc.abstractmethod
    def repeated(self, number: int) -> "Pair":
        """The same pair with each row repeated `number` times."""


@pytree
class Contrast(Scaled):
    """A rule that combines a positive and a negative answer, at noise levels within an interval.

    Outside of the interval only the positive answer is computed. There is one exception: if the
    times differ between images, and any image is inside, both answers are computed for all images.

    Raises: ValueError as `Scaled`.
    """

    takes_observation: ClassVar[bool] = False
    is_product: ClassVar[bool] = False  # whether its score is scale · positive + (1 − scale) · negative

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
        return self.combined(self.place(pair.positive.sde, x, t, pair.positive.weight), *pair.both(x, t), memory)

    def combined(self, place: Place, positive: Estimate, negative: Estimate, memory: Memory | None) -> Estimate:
        """The guided pair of two answers, and the positive pair outside of the interval."""
        return self.limited(place, positive, positive, self.combine(place, positive, negative, memory))


@pytree
class ContrastDenoiser(Denoise):
    """A pair of answers, combined by a `Contrast`."""

    pair: Pair
    rule: Contrast
    memory: Memory | None

    @property
    def sde(self) -> SDE:
        return self.pair.positive.sde

    @property
    def weight(self) -> Weight:
        return self.pair.positive.weight

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
    def plain(self) -> Denoise:
        return plain(self.pair.positive)

    def beside(self, x: Float[Array, "b *shape"], t: Time, ask: Ask) -> Answers:
        """The answers, for a rule around this one."""

        def guided(x, t):
            positive, negative = self.pair.beside(x, t, ask)
            found = self.rule.combined(
                self.rule.place(self.sde, x, t, self.weight), positive.guided, negative, self.memory
            )
            return positive._replace(guided=found)

        if not has_interval(self.rule):
            return guided(x, t)
        inside = jnp.any(is_inside(self.rule, self.sde, t))
        return jax.lax.cond(inside, guided, lambda x, t: beside(self.pair.positive, x, t, ask), x, t)

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
        (positive, negative), _ = in_one_call(self.positive, x, t, [self.negative], Ask())
        return positive, negative

    def beside(self, x: Float[Array, "b *shape"], t: Time, ask: Ask) -> tuple[Answers, Estimate]:
        (positive, negative, *changed), inside = in_one_call(self.positive, x, t, [self.negative], ask)
        return Answers(positive, positive, tuple(changed), inside), negative


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
