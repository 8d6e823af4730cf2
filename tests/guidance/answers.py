"""A denoiser that reads its answers from a table: predictions of another library, for each step and condition."""

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.denoising.dynamics import Denoise
from score_sde.denoising.estimate import Estimate
from score_sde.denoising.parameterizations import PARAMETERIZATIONS
from score_sde.internal.pytree import pytree, static
from score_sde.sdes import Flow
from score_sde.sdes.base import SDE, Time


@pytree
class Answers(Denoise):
    """The network's output is table[label, step, image] at t = times()[step]; the null condition is label 1."""

    table: Float[Array, "labels steps b *shape"]
    condition: Mapping[str, Array] | None
    predicts: str = static(default="flow")

    @property
    def sde(self) -> SDE:
        return Flow()

    def times(self) -> Float[Array, " steps"]:
        """From noise to data, within (0, 1)."""
        steps = self.table.shape[1]
        return 1 - jnp.arange(1.0, steps + 1) / (steps + 1)

    def with_condition(self, condition: Mapping[str, Array]) -> "Answers":
        return dataclasses.replace(self, condition=condition)

    def null_condition(self) -> dict[str, Array]:
        return {"label": jnp.ones_like(self.condition["label"]), "image": self.condition["image"]}

    def __call__(self, x: Float[Array, "b *shape"], t: Time) -> Estimate:
        step = jnp.argmin(jnp.abs(self.times() - t))
        output = self.table[self.condition["label"], step, self.condition["image"]]
        return PARAMETERIZATIONS[self.predicts]().decode(output, x, t, self.sde)
