"""Composition: several conditions, or several models, at once."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.denoising.dynamics import Denoise, Evaluations
from score_sde.denoising.estimate import Estimate
from score_sde.denoising.factors import Factors
from score_sde.guidance.base import Around, Conditional, Guidance, Observation, repeat_rows
from score_sde.internal.per_example import Weight
from score_sde.internal.pytree import pytree
from score_sde.sdes.base import SDE, Time

Written = Mapping[str, Any]


@pytree
class Product(Guidance):
    """∏ q_i(x_t)^{a_i}: its score is Σ a_i ∇ log q_i, and ε̂ = Σ a_i ε̂_i.

    q_i is the model under conditions[i], and a_i is powers[i]. With null_power = None, the model
    under the null condition has the power 1 − Σ a_i. The estimate is then u + Σ a_i (q_i − u),
    which is classifier-free guidance for one condition. With null_power = 0 and powers that sum to
    1, it is the weighted sum of the estimates. All conditions are one call of the network.
    `compose` is the same for several models.

    For t > 0, the sum of the scores is not the score of the product of the data's densities. So the
    samples are biased. `PredictorCorrector(…, AnnealedLangevin(…))` makes the bias smaller, and
    `FeynmanKac` removes it.

    Attributes:
      conditions: for each q_i, values by name that replace values of the model's condition. {} is
        the model's own condition.
      powers: a_i, one for each condition. None: 1 for each.
      null_power: the power of the model under the null condition. None: 1 − Σ a_i.

    Raises: ValueError without conditions, for another number of powers, and for a model without
      these conditions.
    Source: Liu et al., arXiv 2206.01714, Eq. 11; Du et al., arXiv 2302.11552.
    """

    takes_observation: ClassVar[bool] = False

    conditions: Sequence[Written] = ({},)
    powers: Sequence[int | float] | None = None
    null_power: float | None = None

    def __post_init__(self):
        conditions = tuple(dict(each) for each in self.conditions)
        powers = (1.0,) * len(conditions) if self.powers is None else tuple(map(float, self.powers))
        object.__setattr__(self, "conditions", conditions)
        object.__setattr__(self, "powers", powers)
        if not conditions or len(powers) != len(conditions):
            raise ValueError(
                f"Product needs at least one condition and one power for each, got {len(conditions)} conditions and "
                f"powers={self.powers}."
            )

    def wrap(self, model: Denoise, observation: Observation) -> Denoise:
        given = model.condition if isinstance(model, Conditional) else None
        names = {name for each in self.conditions for name in each}
        if not isinstance(model, Conditional) or not given or not names <= set(given):
            raise ValueError(
                f"Product needs a model with the conditions {sorted(names)} first in the list of guidance, got "
                f"{type(model).__name__} with {sorted(given or {})}."
            )
        each = [{**given, **_like(condition, given)} for condition in self.conditions]
        powers: list[Any] = list(self.powers or ())
        if self.null_power is None or self.null_power != 0:
            each.append(dict(model.null_condition()))
            powers.append(1 - sum(powers) if self.null_power is None else self.null_power)
        stacked = {name: jnp.stack([condition[name] for condition in each], axis=1) for name in given}
        return ProductDenoiser(model, stacked, tuple(powers))


def _like(condition: Written, given: Mapping[str, Array]) -> dict[str, Array]:
    """Values as arrays for the whole batch."""
    return {
        name: jnp.broadcast_to(jnp.asarray(value, given[name].dtype), given[name].shape)
        for name, value in condition.items()
    }


@pytree
class ProductDenoiser(Around):
    """One model under several conditions [b, k, …], as one call."""

    model: Conditional
    conditions: Mapping[str, Array]
    powers: tuple[Any, ...]

    def evaluations(self, t: Time) -> Evaluations:
        return len(self.powers) * jnp.asarray(self.model.evaluations(t))

    def __call__(self, x: Float[Array, "b *shape"], t: Time) -> Estimate:
        return self.factors(x, t).product(self.sde, x, t)

    def factors(self, x: Float[Array, "b *shape"], t: Time) -> Factors:
        """Row k i + j of the one batch is image i under condition j."""
        k, t = len(self.powers), jnp.asarray(t)
        condition = {name: values.reshape(-1, *values.shape[2:]) for name, values in self.conditions.items()}
        rows = jnp.repeat(x, k, axis=0), jnp.repeat(t, k) if t.ndim else t
        found = self.model.with_condition(condition)(*rows)
        x0, eps = (values.reshape(-1, k, *x.shape[1:]) for values in found)
        return Factors(self.powers, tuple(Estimate(x0[:, j], eps[:, j]) for j in range(k)))

    def repeated(self, number: int) -> "ProductDenoiser":
        conditions = {name: jnp.repeat(values, number, axis=0) for name, values in self.conditions.items()}
        return dataclasses.replace(self, conditions=conditions)


@pytree
class ModelsProduct(Denoise):
    """∏ q_i^{a_i} of several models, one call of each."""

    models: tuple[Denoise, ...]
    powers: tuple[Any, ...]

    @property
    def sde(self) -> SDE:
        return self.models[0].sde

    @property
    def weight(self) -> Weight:
        return self.models[0].weight

    def evaluations(self, t: Time) -> Evaluations:
        return sum(jnp.asarray(model.evaluations(t)) for model in self.models)

    def __call__(self, x: Float[Array, "b *shape"], t: Time) -> Estimate:
        return self.factors(x, t).product(self.sde, x, t)

    def factors(self, x: Float[Array, "b *shape"], t: Time) -> Factors:
        return Factors(self.powers, tuple(model(x, t) for model in self.models))

    def repeated(self, number: int) -> "ModelsProduct":
        return ModelsProduct(tuple(repeat_rows(model, number) for model in self.models), self.powers)


def compose(models: Sequence[Denoise], powers: Sequence[float]) -> Denoise:
    """The denoiser of ∏ q_i(x_t)^{powers[i]}: ε̂ = Σ a_i ε̂_i. A single model with a power is annealed.

    Raises: ValueError without models, for another number of powers, or for models of several SDEs.
    """
    if not models or len(models) != len(powers) or len({type(model.sde) for model in models}) > 1:
        raise ValueError(
            f"compose needs at least one model and one power for each, all of one SDE, got {len(models)} models of "
            f"{sorted({type(model.sde).__name__ for model in models})} and powers={tuple(powers)}."
        )
    return ModelsProduct(tuple(models), tuple(float(power) for power in powers))
