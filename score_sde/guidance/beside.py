"""Several answers of one network in one batched call: under other conditions, and with changed layers."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.denoising.dynamics import Denoise
from score_sde.denoising.estimate import Estimate
from score_sde.guidance.base import Conditional
from score_sde.internal.layers import Change, Inside, Reading
from score_sde.sdes.base import Time

Condition = Mapping[str, Array]


@runtime_checkable
class Changeable(Denoise, Protocol):
    """A denoiser whose layers can be changed, such as the result of `Denoiser.bind`."""

    def with_changes(self, changes: Sequence[Change | None]) -> Denoise:
        """The same denoiser for a batch whose rows take turns: row i has changes[i % len(changes)]."""
        ...


@runtime_checkable
class Readable(Denoise, Protocol):
    """A denoiser that gives values inside of its network, such as the result of `Denoiser.bind`."""

    def read(self, x: Float[Array, "b *shape"], t: Time, reading: Reading | None) -> tuple[Estimate, Inside]:
        """(the answer, the values that `reading` names), from one call."""
        ...


class Answers(NamedTuple):
    """The answers of one call.

    Attributes:
      guided: the answer of the guided denoiser.
      plain: the answer of the network under its condition, without guidance.
      changed: the answers of the network under its condition, one for each change of layers.
      inside: the values that were read inside of the network, for the plain answer.
    """

    guided: Estimate
    plain: Estimate
    changed: tuple[Estimate, ...]
    inside: Inside


class Ask(NamedTuple):
    """What a rule asks a network for, beside its answer.

    Attributes:
      changes: changes of layers. Each gives another answer.
      reading: the values to read inside of the network. None: nothing.
    """

    changes: tuple[Change, ...] = ()
    reading: Reading | None = None

    def with_change(self, change: Change) -> "Ask":
        return self._replace(changes=(change, *self.changes))


@runtime_checkable
class Beside(Denoise, Protocol):
    """A guided denoiser that gives the answers of changed networks in its own call."""

    @property
    def plain(self) -> Denoise:
        """The network under its condition, without guidance."""
        ...

    def beside(self, x: Float[Array, "b *shape"], t: Time, ask: Ask) -> Answers:
        """The guided answer, the plain answer, and what is asked for beside them."""
        ...


def plain(model: Denoise) -> Denoise:
    """The network within a guided denoiser, or the denoiser itself if it has no guidance."""
    return model.plain if isinstance(model, Beside) else model


def beside(model: Denoise, x: Float[Array, "b *shape"], t: Time, ask: Ask) -> Answers:
    """The answers of `model` and of its network."""
    if isinstance(model, Beside):
        return model.beside(x, t, ask)
    (own, *changed), inside = in_one_call(model, x, t, (), ask)
    return Answers(own, own, tuple(changed), inside)


def in_one_call(
    model: Denoise,
    x: Float[Array, "b *shape"],
    t: Time,
    conditions: Sequence[Condition],
    ask: Ask,
) -> tuple[list[Estimate], Inside]:
    """The answers under the model's own condition, under each other condition, and under its own with each change.

    The rows of one image stand next to each other, so no row changes its device.
    """
    changes = ask.changes
    number, t = 1 + len(conditions) + len(changes), jnp.asarray(t)
    if number > 1 and isinstance(model, Conditional) and model.condition:
        own = model.condition
        model = model.with_condition(
            {
                name: _in_turn([values, *(each[name] for each in conditions), *[values] * len(changes)])
                for name, values in own.items()
            }
        )
    if changes and isinstance(model, Changeable):
        model = model.with_changes([None] * (number - len(changes)) + list(changes))
    x, t = _in_turn([x] * number), _in_turn([t] * number) if t.ndim else t
    if ask.reading is None or not isinstance(model, Readable):
        found, inside = model(x, t), Inside({}, {})
    else:
        found, inside = model.read(x, t, ask.reading)
    rows = [values.reshape(-1, number, *values.shape[1:]) for values in found]
    answers = [Estimate(*(each[:, i] for each in rows)) for i in range(number)]
    return answers, jax.tree.map(lambda values: values.reshape(-1, number, *values.shape[1:])[:, 0], inside)


def _in_turn(arrays: Sequence[Array]) -> Array:
    """n arrays [b, …] -> [n b, …], rows in turn."""
    return jnp.stack(arrays, axis=1).reshape(-1, *arrays[0].shape[1:])
