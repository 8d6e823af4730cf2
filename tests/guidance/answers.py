"""A denoiser that reads its answers from a table: predictions of another library, for each step and condition."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.denoising.dynamics import Denoise
from score_sde.denoising.estimate import Estimate
from score_sde.denoising.parameterizations import PARAMETERIZATIONS
from score_sde.internal.layers import Change
from score_sde.internal.pytree import pytree, static
from score_sde.sdes import Flow
from score_sde.sdes.base import SDE, Time


@pytree
class Answers(Denoise):
    """The network's output is table[label, step, image] at t = times()[step]; the null condition is label 1."""

    table: Float[Array, "labels steps b *shape"]
    condition: Mapping[str, Array] | None
    predicts: str = static(default="flow")
    changes: tuple[Change | None, ...] = static(default=())

    @property
    def sde(self) -> SDE:
        return Flow()

    def times(self) -> Float[Array, " steps"]:
        """From noise to data, within (0, 1)."""
        steps = self.table.shape[1]
        return 1 - jnp.arange(1.0, steps + 1) / (steps + 1)

    def with_condition(self, condition: Mapping[str, Array]) -> "Answers":
        return dataclasses.replace(self, condition=condition)

    def with_changes(self, changes: Sequence[Change | None]) -> "Answers":
        """A changed network reads its answers from the rows of the table that its layers name."""
        return dataclasses.replace(self, changes=tuple(changes))

    def null_condition(self) -> dict[str, Array]:
        return {"label": jnp.ones_like(self.condition["label"]), "image": self.condition["image"]}

    def __call__(self, x: Float[Array, "b *shape"], t: Time) -> Estimate:
        step = jnp.argmin(jnp.abs(self.times() - t))
        label, image = self.condition["label"], self.condition["image"]
        if self.changes:
            rows = np.tile([-1 if each is None else int(each.layers[0]) for each in self.changes], len(x))[: len(x)]
            label = jnp.where(rows < 0, label, rows.astype(np.int32))
        output = self.table[label, step, image]
        return PARAMETERIZATIONS[self.predicts]().decode(output, x, t, self.sde)
