"""The task protocol: everything that the trainer knows of a model.

Symbols: b is the number of examples in a batch. A parameter group is a part of the parameters that
one loss trains.
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
    """The losses of one batch, example by example.

    Attributes:
      losses: parameter group -> loss [b]. With one group, its loss trains all parameters, whatever
        the name of the group is. With several groups, the loss of group g trains `params[g]` alone.
      scalars: name -> [b]. Their means are logged.
      facts: name -> [b], such as the noise levels. They are written for each example when a loss is
        not finite.
    """

    losses: dict[str, Float[Array, " b"]]
    scalars: dict[str, Float[Array, " b"]]
    facts: dict[str, Shaped[Array, " b"]]


class Task(abc.ABC):
    """A model that can be trained: its parameters, the loss of a batch, and a measurement on held-out data.

    The trainer, its step, checkpoints, resume, logs and the plan use these methods and nothing
    else. So any object with these methods is trained, sharded, resumed and guarded against
    non-finite losses.
    """

    @classmethod
    @abc.abstractmethod
    def model(cls, sde: SDE, parameterization: Parameterization, network: nn.Module, objective: Objective) -> Any:
        """The model built from a config's parts: the first argument of the task.

        Raises: ValueError where the parts do not fit together.
        """

    @classmethod
    def network_fields(cls, network: Mapping[str, Any], takes: Collection[str], spec: DataSpec) -> dict[str, Any]:
        """The config section `network`, completed with the sizes that the data determine.

        `takes` are the names of all fields of this network.

        Raises: ValueError for sizes that the data do not have.
        """
        return with_sizes(network, takes, spec)

    @classmethod
    def has_all_sizes(cls, network: Mapping[str, Any], takes: Collection[str]) -> bool:
        """Whether the config section `network` is complete without a look at the data."""
        return all(network.get(name) is not None for name in SIZES.values() if name in takes)

    @property
    @abc.abstractmethod
    def network(self) -> nn.Module:
        """The most expensive network. The plan reads its dtype and `remat`."""

    @abc.abstractmethod
    def with_network(self, network: nn.Module) -> "Task":
        """The same task with another network in the place of `network`."""

    @abc.abstractmethod
    def forward(self, params: Params, batch: Batch) -> Any:
        """One evaluation of the model without dropout. The plan takes it as the cost of a network evaluation."""

    @abc.abstractmethod
    def init(self, key: Key[Array, ""], batch: Batch) -> Params:
        """Draws the parameters for batches like this one. Only the shapes and dtypes of the batch matter."""

    @abc.abstractmethod
    def draw(self, key: Key[Array, ""], step: Any, batch: Batch) -> Draws:
        """All random numbers of a step, except dropout: a pytree of arrays [b, ...], one row for each example.

        So a part of a batch, with its rows of the draws, has the same losses as in the whole batch.
        """

    @abc.abstractmethod
    def losses(
        self, params: Params, averages: Mapping[str, Params], batch: Batch, draws: Draws, key: Key[Array, ""]
    ) -> Losses:
        """The losses of each example. `averages` are the averages of the state; `key` is for dropout."""

    @abc.abstractmethod
    def evaluate(self, key: Key[Array, ""], params: Params, batches: Iterable[Batch]) -> dict[str, float]:
        """Held-out measurements by name, over all batches. Rows with "is_real" False do not count."""

    def tensor_axis(self, path: tuple[str, ...]) -> int | None:
        """The axis of an array that is divided over the mesh axis "tensor", or None for no axis.

        `path` is the names on the way to the array in the state. The paths of averages and moments
        end as the paths of their parameters do.
        """
        return None

    def describe(self, facts: Mapping[str, Shaped[np.ndarray, " b"]]) -> dict[str, Shaped[np.ndarray, " b"]]:
        """What the report of a non-finite loss says of each example, from `Losses.facts`."""
        return dict(facts)
