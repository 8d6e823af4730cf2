"""Guidance by the same network with changed layers: the answer moves away from the answer of the changed network."""

import abc
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.denoising.dynamics import Denoise, Evaluations
from score_sde.denoising.estimate import Estimate
from score_sde.guidance.base import Around, Observation
from score_sde.guidance.beside import Answers, Ask, Changeable, beside, plain
from score_sde.guidance.interval import has_interval, is_inside
from score_sde.guidance.scaled import Scaled
from score_sde.internal.layers import Change
from score_sde.internal.pytree import pytree, static
from score_sde.sdes.base import Time


@pytree
class LayerContrast(Scaled):
    """(x̂0, ε̂) = guided + (scale − 1) · (plain − changed).

    `guided` is the answer of the model that the rule wraps. `plain` is the network under its
    condition, and `changed` is the same network with changed layers. If the rule wraps the network
    itself, `guided` is `plain`. If it wraps classifier-free guidance, both rules use the same plain
    answer, and one batched call of the network gives all three answers.

    Attributes:
      layers: the names of the layers, as in the tree of the parameters. "block_3/attention" is a
        layer within a layer.

    Raises: ValueError as `Scaled`, for a denoiser without a network, and, when the network is
      called, for a name that is no such layer. The message lists the layers of the network.
    """

    takes_observation: ClassVar[bool] = False

    layers: Sequence[str] = static(default=())

    def __post_init__(self):
        super().__post_init__()
        # A text alone would be read as one layer for each letter.
        layers = (self.layers,) if isinstance(self.layers, str) else tuple(self.layers)
        object.__setattr__(self, "layers", layers)

    @property
    @abc.abstractmethod
    def change(self) -> Change:
        """The change of the layers."""

    def wrap(self, model: Denoise, observation: Observation) -> Denoise:
        found = plain(model)
        if not isinstance(found, Changeable):
            raise ValueError(
                f"{type(self).__name__} needs a denoiser whose layers it can change, got {type(found).__name__}; put "
                "it first in the list of guidance, or directly after classifier_free or another rule with a scale."
            )
        return LayerDenoiser(model, self)


@pytree
class LayerDenoiser(Around):
    """`model` under a `LayerContrast`."""

    model: Denoise
    rule: LayerContrast

    @property
    def plain(self) -> Denoise:
        return plain(self.model)

    def evaluations(self, t: Time) -> Evaluations:
        """The evaluations of the model, and inside of the interval one more of its network."""
        inside = is_inside(self.rule, self.sde, t)
        more = jnp.where(inside, jnp.asarray(self.plain.evaluations(t)), 0)
        return jnp.asarray(self.model.evaluations(t)) + more

    def __call__(self, x: Float[Array, "b *shape"], t: Time) -> Estimate:
        if not has_interval(self.rule):
            return self._inside(x, t, Ask()).guided
        inside = jnp.any(is_inside(self.rule, self.sde, t))
        return jax.lax.cond(inside, lambda x, t: self._inside(x, t, Ask()).guided, self.model, x, t)

    def beside(self, x: Float[Array, "b *shape"], t: Time, ask: Ask) -> Answers:
        """The answers and what is asked for beside them, for another rule of this kind around this one."""
        if not has_interval(self.rule):
            return self._inside(x, t, ask)
        inside = jnp.any(is_inside(self.rule, self.sde, t))
        return jax.lax.cond(
            inside, lambda x, t: self._inside(x, t, ask), lambda x, t: beside(self.model, x, t, ask), x, t
        )

    def _inside(self, x: Float[Array, "b *shape"], t: Time, ask: Ask) -> Answers:
        rule = self.rule
        guided, own, (changed, *others), inside = beside(self.model, x, t, ask.with_change(rule.change))
        place = rule.place(self.sde, x, t, self.weight)
        moved = Estimate(*(g + (place.scale - 1) * (p - c) for g, p, c in zip(guided, own, changed, strict=True)))
        return Answers(rule.limited(place, own, guided, moved), own, tuple(others), inside)
