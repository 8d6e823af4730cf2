"""The settings that a run saves, for readers and for the comparison with a resumed run.

They are the config of the run, or what its objects tell about themselves.
"""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from score_sde.data import TrainBatches
from score_sde.data.digests import digest_of_array
from score_sde.internal.files import write_json

CONFIG_FILE = "config.json"
DESCRIPTION_FILE = "description.json"
Values = Mapping[str, Any]


class Description(NamedTuple):
    """JSON values in sections, as in a config. Every checkpoint of the run holds them too.

    Attributes:
      file: the file in the run's folder with the values.
      complete: adds values that are left out, before they are compared with the values of a
        checkpoint.
    """

    file: str
    values: dict[str, Any]
    complete: Callable[[Values], dict[str, Any]] = dict

    def write(self, workdir: pathlib.Path) -> None:
        """Writes the values into the folder of the run."""
        write_json(workdir / self.file, self.values)

    def of_length(self, num_steps: int) -> "Description":
        """The description with the number of steps of this training."""
        training = {**self.values["training"], "num_steps": num_steps}
        return self._replace(values={**self.values, "training": training})

    @property
    def completed(self) -> dict[str, Any]:
        """The values, with those that are left out."""
        return self.complete(self.values)

    def is_like(self, run: Values) -> bool:
        """Whether the description in a checkpoint has the same form: both a config, or both objects."""
        return (run.get("position") or {}).get("description", CONFIG_FILE) == self.file

    @property
    def mark(self) -> dict[str, str]:
        """The mark in a checkpoint from which `is_like` knows the form. A config needs none."""
        return {} if self.file == CONFIG_FILE else {"description": self.file}

    def allowing(self, fields: Sequence[str]) -> str:
        """The flag or argument that allows these fields to differ."""
        return f"--allow_change={','.join(fields)}" if self.file == CONFIG_FILE else f"allow_change={list(fields)}"


def description_of(task: Any, batches: TrainBatches, seed: int, **sections: Any) -> Description:
    """The description of a run without a config.

    A given optimizer is not part of it, because a transformation of optax cannot be read.
    """
    augment = {"random_flip": batches.random_flip, "crop": batches.crop, "dequantize": batches.dequantize}
    values = {
        "seed": seed,
        "task": as_plain(task),
        "data": {"train": {"name": type(batches.source).__name__}, "augment": as_plain(augment)},
        **{name: as_plain(section) for name, section in sections.items()},
    }
    return Description(DESCRIPTION_FILE, values)


def as_plain(value: Any) -> Any:
    """Objects as JSON values: a dataclass by its class and fields, an array by its digest, others by their names."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        array = np.asarray(value)
        return array.item() if array.ndim == 0 else {"shape": list(array.shape), "sha256": digest_of_array(array)}
    if isinstance(value, Mapping):
        return {str(name): as_plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name, None) for f in dataclasses.fields(value) if f.name not in _OF_FLAX}
        return {"name": type(value).__name__, **{name: as_plain(item) for name, item in fields.items()}}
    return getattr(value, "__qualname__", type(value).__qualname__)


_OF_FLAX = ("parent", "name")  # fields of every Flax module, which do not affect the computation
