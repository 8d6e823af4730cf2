"""The guidance protocol: it takes a denoiser and returns a denoiser.

No guidance method knows a solver, and no solver knows a guidance method.
"""

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.denoising.dynamics import Denoise, Evaluations
from score_sde.denoising.estimate import Estimate
from score_sde.denoising.function_denoiser import as_denoise
from score_sde.internal.broadcast import expand_like
from score_sde.internal.per_example import Weight
from score_sde.internal.pytree import pytree
from score_sde.sdes.base import SDE, Time

# (workdir, step, average) -> the model of a run, bound to its parameters.
Load = Callable[[str, int | None, str | None], Any]
Observation = Mapping[str, Array]  # what was measured of each image, by name: arrays [b, …]


class Guidance(abc.ABC):
    """A rule that changes the output of a denoiser. Its fields are its settings. It holds no model and no data.

    In a list of rules, the first rule wraps the model, the second rule wraps the result, and so on.

    Attributes:
      takes_observation: whether the rule reads the observation. If it does, sampling reads one
        held-out example for each image.
    """

    takes_observation: ClassVar[bool] = True

    @abc.abstractmethod
    def wrap(self, model: Denoise, observation: Observation) -> Denoise:
        """The guided denoiser. Its `evaluations(t)` is the cost of a call.

        Raises: ValueError where the rule needs something that `model` or `observation` lacks.
        """

    def loaded(self, load: Load) -> "Guidance":
        """The rule with the trained models that it names. Most rules name none."""
        return self


def guide(model: Denoise, rules: Sequence[Guidance], observation: Observation | None = None) -> Denoise:
    """`model` under all rules: rules[0] wraps it, rules[1] wraps the result, and so on."""
    for rule in rules:
        model = rule.wrap(model, observation or {})
    return model


@runtime_checkable
class Conditional(Denoise, Protocol):
    """A denoiser whose condition can be replaced, such as the result of `Denoiser.bind`."""

    condition: Mapping[str, Array] | None

    def with_condition(self, condition: Mapping[str, Array]) -> Denoise:
        """The same denoiser with another condition. The batch size may differ."""
        ...

    def null_condition(self) -> Mapping[str, Array]:
        """The condition that training shows in place of a dropped condition, in the shape of `condition`."""
        ...


def repeat_rows(model: Denoise, number: int) -> Denoise:
    """`model` with each row of its condition `number` times."""
    if not isinstance(model, Conditional) or not model.condition:
        return model
    return model.with_condition({name: jnp.repeat(rows, number, axis=0) for name, rows in model.condition.items()})


class Around(Denoise):
    """A denoiser around one other, with its SDE and its weight. A call costs what a call of the other denoiser costs."""

    model: Denoise

    @property
    def sde(self) -> SDE:
        return self.model.sde

    @property
    def weight(self) -> Weight:
        return self.model.weight

    def evaluations(self, t: Time) -> Evaluations:
        return self.model.evaluations(t)


class EstimateRule(Guidance):
    """A rule that changes each estimate, without another call of the model."""

    takes_observation: ClassVar[bool] = False

    def __new__(cls, *settings: Any, **fields: Any):
        """Raises TypeError for the call of an earlier version, whose first argument was the denoiser."""
        given = [*settings, *fields.values()]
        if any(callable(value) or isinstance(value, SDE) for value in given):
            raise TypeError(
                f"{cls.__name__} holds settings and no denoiser, got {', '.join(type(v).__name__ for v in given)}; write "
                f"guide(denoise, ({cls.__name__}(…),)), which returns the guided denoiser. The denoiser knows its SDE."
            )
        return super().__new__(cls)

    @abc.abstractmethod
    def change(self, sde: SDE, x: Float[Array, "b *shape"], t: Time, estimate: Estimate) -> Estimate:
        """The estimate that replaces the model's."""

    def wrap(self, model: Denoise, observation: Observation) -> Denoise:
        return ChangedEstimate(as_denoise(model), self)


@pytree
class ChangedEstimate(Around):
    """`model` with each estimate changed by `rule`."""

    model: Denoise
    rule: EstimateRule

    def __call__(self, x: Float[Array, "b *shape"], t: Time) -> Estimate:
        return self.rule.change(self.sde, x, t, self.model(x, t))


def with_x0(
    sde: SDE, x: Float[Array, "b *shape"], t: Time, estimate: Estimate, x0: Float[Array, "b *shape"]
) -> Estimate:
    """(x0, ε) with x = α x0 + σ ε, from an estimate with the same x: ε grows by α/σ times the decrease of x0.

    Where σ = 0, ε is not changed.
    """
    alpha, sigma = expand_like(sde.alpha(t), x), expand_like(sde.sigma(t), x)
    return Estimate(x0, estimate.eps + jnp.where(sigma > 0, alpha / sigma, 0.0) * (estimate.x0 - x0))
