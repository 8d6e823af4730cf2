"""What a run saves of its settings, for a resumed run to compare and for readers: its config, or as much as objects tell."""

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
    """Plain JSON values in sections, as a config has them; every checkpoint of the run holds them too.

    Fields: `file` in the run's folder has the values; `complete` fills in what such values leave out, before they are
    compared with those of a checkpoint.
    """

    file: str
    values: dict[str, Any]
    complete: Callable[[Values], dict[str, Any]] = dict

    def write(self, workdir: pathlib.Path) -> None:
        """Writes the values into the folder of the run."""
        write_json(workdir / self.file, self.values)

    @property
    def completed(self) -> dict[str, Any]:
        """The values, with what they leave out."""
        return self.complete(self.values)

    def allowing(self, fields: Sequence[str]) -> str:
        """What to add to go on although these fields differ."""
        return f"--allow_change={','.join(fields)}" if self.file == CONFIG_FILE else f"allow_change={list(fields)}"


def description_of(task: Any, batches: TrainBatches, seed: int, **sections: Any) -> Description:
    """Of a run without a config. An optimizer that was given is no part of it: nobody can read one."""
    augment = {"random_flip": batches.random_flip, "crop": batches.crop, "dequantize": batches.dequantize}
    values = {
        "seed": seed,
        "task": as_plain(task),
        "data": {"train": {"name": type(batches.source).__name__}, "augment": as_plain(augment)},
        **{name: as_plain(section) for name, section in sections.items()},
    }
    return Description(DESCRIPTION_FILE, values)


def as_plain(value: Any) -> Any:
    """Objects as JSON values: a dataclass by its class and its fields, an array by its digest, others by their names."""
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


_OF_FLAX = ("parent", "name")  # fields that every Flax module has, and that say nothing of what it computes
