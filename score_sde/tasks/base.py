"""The task protocol: all that the trainer knows of a model.

Symbols: b examples in a batch; a parameter group is a part of the parameters that one loss trains.
"""

import abc
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Key, Shaped

from score_sde.data import SIZES, DataSpec, with_sizes
from score_sde.denoising.parameterizations import Parameterization
from score_sde.objectives import Objective
from score_sde.sdes import SDE

Params = Any
Batch = Mapping[str, Any]  # "x", "index", "condition" {name: array}, and "is_real" where rows are padding
Draws = Any


class Losses(NamedTuple):
    """What one batch costs, example by example.

    Attributes:
      losses: parameter group -> loss [b]. With one group, its loss trains all parameters, whatever the group is called.
        With several groups, the loss of group g trains `params[g]` alone.
      scalars: name -> [b]; their means are logged.
      facts: name -> [b]; written for each example when a loss is not finite, such as the noise levels.
    """

    losses: dict[str, Float[Array, " b"]]
    scalars: dict[str, Float[Array, " b"]]
    facts: dict[str, Shaped[Array, " b"]]


class Task(abc.ABC):
    """Something that can be trained: parameters, the loss of a batch, and a measurement on held-out data.

    The trainer, its step, checkpoints, resume, logs and the plan use these methods and nothing else. So whatever has them
    is trained, sharded, resumed and guarded against losses that are not finite.
    """

    @classmethod
    @abc.abstractmethod
    def model(cls, sde: SDE, parameterization: Parameterization, network: nn.Module, objective: Objective) -> Any:
        """What a config's parts make: the first argument of the task. Raises: ValueError where they do not fit."""

    @classmethod
    def network_fields(cls, network: Mapping[str, Any], takes: Collection[str], spec: DataSpec) -> dict[str, Any]:
        """The config section `network` with the sizes that the data determine filled in.

        `takes` are the names of all fields of such a network. Raises: ValueError for sizes that the data do not have.
        """
        return with_sizes(network, takes, spec)

    @classmethod
    def has_all_sizes(cls, network: Mapping[str, Any], takes: Collection[str]) -> bool:
        """Whether the config section `network` can be built without looking at the data."""
        return all(network.get(name) is not None for name in SIZES.values() if name in takes)

    @property
    @abc.abstractmethod
    def network(self) -> nn.Module:
        """The network that costs most, for the plan: its dtype, and what it computes again."""

    @abc.abstractmethod
    def with_network(self, network: nn.Module) -> "Task":
        """The same task with another network in that place."""

    @abc.abstractmethod
    def forward(self, params: Params, batch: Batch) -> Any:
        """One evaluation of the model without dropout, for the plan: what a network evaluation of sampling costs."""

    @abc.abstractmethod
    def init(self, key: Key[Array, ""], batch: Batch) -> Params:
        """Draws the parameters for batches like this one, of which only shapes and dtypes matter."""

    @abc.abstractmethod
    def draw(self, key: Key[Array, ""], step: Any, batch: Batch) -> Draws:
        """All randomness of a step but the dropout inside networks: a pytree of arrays [b, ...], a row for each example.

        A part of a batch with its rows of the draws then has the losses that it has in the whole batch.
        """

    @abc.abstractmethod
    def losses(
        self, params: Params, averages: Mapping[str, Params], batch: Batch, draws: Draws, key: Key[Array, ""]
    ) -> Losses:
        """The losses of each example. `averages` are those of the state; `key` is for dropout inside networks."""

    @abc.abstractmethod
    def evaluate(self, key: Key[Array, ""], params: Params, batches: Iterable[Batch]) -> dict[str, float]:
        """Held-out measurements by name, over all batches (rows with "is_real" False do not count)."""

    def tensor_axis(self, path: tuple[str, ...]) -> int | None:
        """The axis of an array that is divided over the mesh's "tensor" axis; None for not at all.

        `path` holds the names on the way to the array in the state: averages and moments end as their parameters do.
        """
        return None

    def describe(self, facts: Mapping[str, Shaped[np.ndarray, " b"]]) -> dict[str, Shaped[np.ndarray, " b"]]:
        """What the report of a loss that is not finite says of each example, from `Losses.facts`."""
        return dict(facts)
