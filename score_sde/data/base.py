"""The interface of every source of examples: a length, a description, and random access by index.

Symbols: n is the number of examples in the source, b the number of examples in a batch, and k a
quantization level in {0, …, levels − 1}.
"""

import abc
import dataclasses
import math
import os
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int32, Integer, Shaped, UInt8

Examples = dict[str, np.ndarray]  # the output of a source: "x", "label", other conditions and observations
Batch = dict[str, Any]  # "x", "index", "condition" and "observation" {name: array}; "is_real" where padded


SKIP = "set data.on_error=skip to train on the others"  # the remedy that messages about a single example offer


class BadExample(ValueError):  # noqa: N818  what it names is no error of the program
    """One example cannot be used: its file is damaged, has another size, or holds values that are not numbers.

    Attributes:
      index: the index of the example in its source.
    """

    def __init__(self, index: int, message: str):
        super().__init__(message)
        self.index = index


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSpec:
    """The shape of one example x and, if x is quantized, its levels: x = 2k/(levels − 1) − 1 in [−1, 1].

    Attributes:
      shape: the shape of x without the batch axis: (h, w, c) for images, (length, c) for signals,
        (d,) for points.
      levels: the number of quantization levels (256 for 8-bit images). None for continuous data.
      num_classes: the labels are 0, …, num_classes − 1. None without labels.
      class_names: the name of each class, in the order of the class numbers. None without labels,
        or where classes have only numbers.
      spatial: the conditions and observations that lie over x as a mask lies over an image. They are flipped and
        cropped with x. None is those with the spatial sizes of x: [h, w] or [h, w, …] beside
        images, [length, …] beside signals.
      conditions: name -> shape per example of every array that comes with x, "label" included.
      observations: name -> shape per example of the measurements of x. Only guidance gets
        observations, the network does not.
    """

    shape: tuple[int, ...]
    levels: int | None = None
    num_classes: int | None = None
    conditions: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    class_names: tuple[str, ...] | None = None
    spatial: tuple[str, ...] | None = None
    observations: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if not self.shape or min(self.shape) < 1:
            raise ValueError(f"DataSpec needs a shape of positive sizes, got {self.shape}.")
        if self.levels is not None and not 2 <= self.levels <= 65536:
            raise ValueError(f"DataSpec needs 2 <= levels <= 65536, or None for continuous data, got {self.levels}.")
        if self.class_names is not None:
            self._check_class_names(self.class_names)
        if twice := sorted(self.conditions.keys() & self.observations.keys()):
            raise ValueError(f"A name is a condition or an observation, got {twice} as both; leave one of them out.")
        for name in self.spatial or ():
            if len(self.riders.get(name, ())) < max(1, len(self.shape) - 1):
                raise ValueError(
                    f"spatial needs conditions or observations with the axes {self.shape[:-1]} of x, got {name!r} of shape "
                    f"{self.riders.get(name, 'absent')}; leave it out."
                )

    @property
    def riders(self) -> dict[str, tuple[int, ...]]:
        """The shapes of all arrays that come with x: conditions and observations."""
        return {**self.conditions, **self.observations}

    def _check_class_names(self, names: tuple[str, ...]) -> None:
        repeated = sorted({name for name in names if names.count(name) > 1})
        if len(names) != self.num_classes or repeated:
            raise ValueError(
                f"DataSpec needs a different name for each of {self.num_classes} classes, got {len(names)} names"
                f"{f', {repeated[0]!r} more than once' if repeated else ''}."
            )

    def kind_of(self, name: str) -> str:
        """The kind of a name in `riders`, for a message: "Observation" or "Condition"."""
        return "Observation" if name in self.observations else "Condition"

    def moving(self) -> tuple[str, ...]:
        """The conditions and observations that are flipped and cropped with x.

        Raises: ValueError for a condition with the axes of x but another size, if `spatial` does
          not say whether the condition lies over x.
        """
        if self.spatial is not None:
            return self.spatial
        sizes = self.shape[:-1]
        names = [name for name, shape in self.riders.items() if len(shape) > 1 and shape[: len(sizes)] == sizes]
        for name, shape in self.riders.items():
            if len(sizes) == 2 and len(shape) == 3 and name not in names:
                raise ValueError(
                    f"The {self.kind_of(name).lower()} {name!r} of shape {shape} may be an image beside x of shape "
                    f"{self.shape}; set data.train.spatial=({name!r},) to flip it with x, or data.train.spatial=() to leave "
                    "it as it is."
                )
        return tuple(names) if sizes else ()

    def class_name(self, number: int) -> str:
        """The name of a class, or its number as a text where classes have no names."""
        return str(number) if self.class_names is None else self.class_names[number]

    @property
    def dimension(self) -> int:
        """The number of values in one example. bits/dim are nats per example / (dimension · ln 2)."""
        return math.prod(self.shape)

    @property
    def bin_width(self) -> float | None:
        """2/(levels − 1), the spacing of the levels of x. None for continuous data."""
        return None if self.levels is None else 2 / (self.levels - 1)

    def scale(self, raw: Shaped[np.ndarray, "*any"]) -> Float[np.ndarray, "*any"]:
        """x = 2k/(levels − 1) − 1 in float32, exactly ±1 at the ends. Continuous data are only cast to float32."""
        x = raw.astype(np.float32)
        if self.levels is not None:
            x *= np.float32(2)
            x /= np.float32(self.levels - 1)
            x -= np.float32(1)
        return x

    def quantize(self, x: Float[np.ndarray, "*any"]) -> Integer[np.ndarray, "*any"]:
        """k = round((x + 1)(levels − 1)/2), clipped to the levels: the inverse of `scale`, for writing images.

        Several published samplers truncate instead. That darkens every image by half a level.
        """
        if self.levels is None:
            raise ValueError("quantize needs quantized data, got a continuous source (levels=None).")
        x = np.asarray(x, np.float64)
        if not np.isfinite(x).all():
            raise ValueError(
                f"quantize needs finite values, got {np.sum(~np.isfinite(x))} of {x.size} that are not; find out where the "
                "network or solver diverged."
            )
        k = np.rint((x + 1) * ((self.levels - 1) / 2))
        return np.clip(k, 0, self.levels - 1).astype(np.uint8 if self.levels <= 256 else np.uint16)

    def image_u8(self, x: Float[np.ndarray, "*any"]) -> UInt8[np.ndarray, "*any"]:
        """255 k/(levels − 1), rounded, with the level k of `quantize`: the 8-bit image that is nearest to x.

        The examples of the source have the same grey values. Continuous data, and data of more than
        256 levels, are rounded to 256 levels of [−1, 1].

        Raises: ValueError for NaN or infinite values, which no grey level can show.
        """
        if self.levels is None or self.levels > 256:
            return dataclasses.replace(self, levels=256).quantize(x)
        return np.rint(self.quantize(x) * (255 / (self.levels - 1))).astype(np.uint8)


class Source(abc.ABC):
    """n examples with random access. A new data set is a subclass with `spec`, `__len__` and `gather`.

    `gather` must not depend on earlier calls, and several threads may call it at the same time.
    """

    spec: DataSpec

    @abc.abstractmethod
    def __len__(self) -> int:
        """n, the number of examples."""

    @abc.abstractmethod
    def gather(self, indices: Integer[np.ndarray, " b"]) -> Examples:
        """The examples at `indices`, stacked.

        "x" [b, *spec.shape] holds the levels k (unsigned integers) where spec.levels is set, and
        float32 values otherwise. "label" is int32 [b]. Every other name in spec.riders is
        float32 [b, ...] or int32 [b, ...].

        Raises: BadExample for an example that cannot be used, while other examples can.
        """

    def labels(self) -> Int32[np.ndarray, " n"]:
        """The label of every example."""
        chunks = [np.arange(start, min(start + 256, len(self))) for start in range(0, len(self), 256)]
        return np.concatenate([self.labels_at(indices) for indices in chunks])

    def labels_at(self, indices: Integer[np.ndarray, " b"]) -> Int32[np.ndarray, " b"]:
        """The labels of the examples at `indices`. A source that knows them without reading x overrides this method."""
        return self.gather(indices)["label"]

    def summary(self) -> str:
        """One line about the data, for the start of a run."""
        spec = self.spec
        classes = (
            ""
            if spec.num_classes is None
            else f", {spec.num_classes} {'class' if spec.num_classes == 1 else 'classes'}"
        )
        levels = "continuous" if spec.levels is None else f"{spec.levels} levels"
        return f"{len(self):,} examples of shape {spec.shape}, {levels}{classes}"

    def facts(self) -> dict[str, Any]:
        """Facts about the data as JSON values. A resumed run compares them, to see whether the data have changed.

        {"num_examples": n, "shape": [h, w, c], "levels": 256, "num_classes": 2, "class_names":
        ["cat", "dog"], "digest": "3f0c…"}, with None for what the data do not have. Equal data have
        equal facts, in any folder.
        """
        spec = self.spec
        return {
            "num_examples": len(self),
            "shape": list(spec.shape),
            "levels": spec.levels,
            "num_classes": spec.num_classes,
            "class_names": None if spec.class_names is None else list(spec.class_names),
            "digest": self.digest(),
        }

    def digest(self) -> str | None:
        """A digest of the examples and their order, at little cost. None where the source has none."""
        return None

    def __getitem__(self, index: int) -> Examples:
        """Returns one example, without a batch axis."""
        if not 0 <= index < len(self):
            raise IndexError(f"{type(self).__name__} needs 0 <= index < {len(self)}, got {index}.")
        return {name: values[0] for name, values in self.gather(np.array([index])).items()}


def as_path(path: str | os.PathLike, source: str) -> pathlib.Path:
    """The path of a source's data, with "~" expanded.

    Raises: ValueError for "", which would be the current folder.
    """
    if not os.fspath(path):
        raise ValueError(f"{source} needs a path, got ''; set --config.data.train.path and --config.data.eval.path.")
    return pathlib.Path(path).expanduser()


def condition_names(conditions: Mapping[str, str] | Sequence[str] | None, field: str = "conditions") -> dict[str, str]:
    """The name in the data of each condition, by the network's name for it. In a list, both names agree."""
    named = conditions if isinstance(conditions, Mapping) else {name: name for name in conditions or ()}
    taken = sorted({"x", "label"} & set(named))
    if isinstance(conditions, str) or taken:
        raise ValueError(
            f"{field} needs names, as {{'embedding': 'name in the data'}}, other than x and label (which "
            f"label_key or labels give), got {conditions!r}."
        )
    return dict(named)


def rider_names(
    conditions: Mapping[str, str] | Sequence[str] | None, observations: Mapping[str, str] | Sequence[str] | None
) -> tuple[dict[str, str], dict[str, str]]:
    """The names in the data of the conditions and of the observations, by the network's names for them.

    Raises: ValueError for a name that is both, or is x or label.
    """
    both = condition_names(conditions), condition_names(observations, "observations")
    if twice := sorted(both[0].keys() & both[1].keys()):
        raise ValueError(f"A name is a condition or an observation, got {twice} as both; leave one of them out.")
    return both


def rider_shapes(
    riders: Mapping[str, np.ndarray], observations: Collection[str]
) -> dict[str, dict[str, tuple[int, ...]]]:
    """{"conditions": …, "observations": …} for a `DataSpec`: the shapes of arrays [n, …] that come with x."""
    shapes = {name: values.shape[1:] for name, values in riders.items() if name != "x"}
    return {
        "conditions": {name: shape for name, shape in shapes.items() if name not in observations},
        "observations": {name: shape for name, shape in shapes.items() if name in observations},
    }


def as_condition(values: Shaped[np.ndarray, "*any"], name: str) -> Shaped[np.ndarray, "*any"]:
    """The array of a condition, cast to a network's type: float32, or int32 for integers and booleans."""
    if values.dtype.kind == "f":
        # A value beyond float32 becomes infinite, and raises an error when its row is read.
        with np.errstate(over="ignore"):
            return values.astype(np.float32)
    if values.dtype.kind in "iub":
        if values.dtype.itemsize >= 4 and values.size and not -(2**31) <= values.min() <= values.max() < 2**31:
            raise ValueError(
                f"Condition {name!r} needs integers of 32 bits, got {values.min()} to {values.max()}; number them from 0."
            )
        return values.astype(np.int32)
    raise ValueError(f"Condition {name!r} needs numbers, got dtype {values.dtype}; encode it as numbers first.")


def check_finite(
    values: Shaped[np.ndarray, "b ..."],
    indices: Integer[np.ndarray, " b"],
    who: str,
    where: str,
    needs: str = "finite values",
) -> None:
    """Raises BadExample for the first row that holds NaN or an infinity."""
    check_rows(
        np.isfinite(values) if values.dtype.kind == "f" else np.ones(len(values), bool), indices, who, where, needs
    )


def check_rows(
    good: Bool[np.ndarray, "b ..."], indices: Integer[np.ndarray, " b"], who: str, where: str, needs: str
) -> None:
    """Raises BadExample for the first row whose values are not all good."""
    bad = ~good.reshape(len(good), -1).all(axis=1)
    if bad.any():
        row = int(indices[bad.argmax()])
        raise BadExample(row, f"{who} needs {needs}, got others in row {row} of {where}; repair the row, or {SKIP}.")


def as_labels(values: Shaped[np.ndarray, "*any"], name: str) -> Integer[np.ndarray, " b"]:
    """The labels as int32, checked to be one class number per example."""
    if values.dtype.kind not in "iu" or values.ndim != 1:
        is_column = values.ndim == 2 and values.shape[1] == 1
        is_whole = values.dtype.kind == "b" or (values.dtype.kind == "f" and bool((values == np.rint(values)).all()))
        cast = ".astype(int)" if is_whole and (is_column or values.ndim == 1) else ""
        fix = (
            f"save them as y{'[:, 0]' * is_column}{cast}"
            if is_column or cast
            else "one-hot or real-valued labels go under conditions"
        )
        raise ValueError(
            f"Labels {name!r} need one integer per example, got {values.dtype} of shape {values.shape}; {fix}."
        )
    if values.size and values.min() < 0:
        raise ValueError(f"Labels {name!r} need class numbers >= 0, got {values.min()}; this split may be unlabelled.")
    if values.size and values.max() >= 2**31 - 1:
        raise ValueError(f"Labels {name!r} need class numbers, got {values.max()}; number the classes from 0.")
    return values.astype(np.int32)
