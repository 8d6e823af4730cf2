"""An array file: .npy, or .npz with several arrays."""

import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int32, Integer, Shaped

from score_sde.data.array_checks import levels_of
from score_sde.data.base import (
    SKIP,
    BadExample,
    DataSpec,
    Examples,
    Source,
    as_condition,
    as_path,
    check_finite,
    check_rows,
    rider_names,
    rider_shapes,
)
from score_sde.data.classes import labels_of
from score_sde.data.digests import digest_of_array, digest_of_json
from score_sde.data.listing import LISTED
from score_sde.internal.guarded import Npz, read_npy

_REMEDY = "write it again with np.savez"


class ArraySource(Source):
    """Example i is row i of an array [n, *shape]: images [n, h, w, c], signals [n, length, c], points [n, d].

    Unsigned 8-bit arrays are quantized data with 256 levels, and boolean arrays have 2 levels.
    Other integer arrays need `levels`. Floating arrays are continuous data. Floating images in [0,
    1] or 0 to 255 need `value_range`. Uncompressed files (.npy, and .npz by `np.savez`) are mapped
    into memory and read on demand. Compressed .npz files are read at once.

    A name is a member of the .npz file. Beside an .npy file, a name is the file `name.npy` in the
    same folder.

    Args:
      path: the .npy or .npz file.
      key: the name of the data in an .npz file.
      label_key: the name of the labels [n], which are integers or class names. Class names are
        numbered in alphabetical order. None means no labels.
      conditions: further arrays [n, ...] that come with each example, as a mapping from the
        network's name to the file's name, or as a list where both names agree.
      observations: further arrays [n, ...] with measurements of each example, named as in
        `conditions`. Only guidance gets observations, the network does not.
      levels: the number of quantization levels of an integer array. None is 256 for uint8, and 2
        for bool.
      value_range: (low, high) of a floating array, mapped to [−1, 1]. None takes the values as they
        are.
      channels: the required size of the last axis. None accepts any size, unless the array has two
        possible readings: images or signals with their channels on axis 1, or grey images without a
        channel axis.
      channels_first: whether the channels are on axis 1, as in [n, c, h, w].
      num_classes: the number of classes. None is the largest label + 1, or the number of names.
      class_names: the names of the classes 0, 1, … of integer labels. None means no names.
      spatial: the conditions and observations that are flipped and cropped with x. None is those with the spatial
        sizes of x.
    Raises: FileNotFoundError if a file is missing. ValueError if an array is missing, or has the
      wrong type, length, shape or range.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        key: str = "x",
        label_key: str | None = None,
        conditions: Mapping[str, str] | Sequence[str] | None = None,
        observations: Mapping[str, str] | Sequence[str] | None = None,
        levels: int | None = None,
        value_range: tuple[float, float] | None = None,
        channels: int | None = None,
        channels_first: bool = False,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        spatial: Sequence[str] | None = None,
    ):
        self._path, (told, measured) = as_path(path, "ArraySource"), rider_names(conditions, observations)
        renamed = told | measured
        names = [key, *([] if label_key is None else [label_key]), *renamed.values()]
        arrays = _open_arrays(self._path, names)
        self._x = arrays[key]
        self._value_range = value_range
        if channels_first:
            self._x = np.moveaxis(self._x, 1, -1)  # a view, which reads nothing
        levels = levels_of(self._path, self._x, levels, value_range, channels)
        for name in names[1:]:
            _check_rows(name, arrays[name], len(self._x))
        self._riders: Examples = {}
        if label_key is not None:
            class_names, self._riders["label"] = labels_of(np.asarray(arrays[label_key]), class_names, label_key)
            num_classes = _check_classes(self._riders["label"], num_classes, class_names)
        elif num_classes is not None or class_names is not None:
            raise ValueError(
                f"num_classes and class_names need labels, got {label_key=}; set label_key, or leave them out."
            )
        for name, there in renamed.items():
            as_condition(arrays[there][:1], there)
            self._riders[name] = arrays[there]
        self.spec = DataSpec(
            shape=self._x.shape[1:],
            levels=levels,
            num_classes=num_classes,
            **rider_shapes(self._riders, measured),
            class_names=None if class_names is None else tuple(class_names),
            spatial=None if spatial is None else tuple(spatial),
        )

    def __len__(self) -> int:
        return len(self._x)

    def labels_at(self, indices: Integer[np.ndarray, " b"]) -> Int32[np.ndarray, " b"]:
        """The labels at `indices`, without reading x."""
        return self._riders["label"][indices]

    def summary(self) -> str:
        """One line about the data, with the file, and the classes without an example."""
        text = f"{super().summary()}; in {self._path}"
        if "label" not in self._riders:
            return text
        without = np.setdiff1d(np.arange(self.spec.num_classes or 0), self._riders["label"])
        names = ", ".join(repr(self.spec.class_name(number)) for number in without[:LISTED].tolist())
        more = ", …" if len(without) > LISTED else ""
        return f"{text}; {len(without)} without examples: {names}{more}" if len(without) else text

    def digest(self) -> str:
        """The digest of all arrays that are used, by blocks for large arrays (`digests`).

        It does not depend on the name or format of the file.
        """
        arrays = {"x": self._x, **self._riders}
        return digest_of_json({name: digest_of_array(values) for name, values in arrays.items()})

    def gather(self, indices: Integer[np.ndarray, " b"]) -> Examples:
        """The rows at `indices`, copied."""
        x = np.asarray(self._x[indices])
        levels = self.spec.levels
        x = self._checked_values(x, indices) if levels is None else self._checked_levels(x, indices, levels)
        riders = {name: as_condition(np.asarray(values[indices]), name) for name, values in self._riders.items()}
        for name, values in riders.items():
            check_finite(values, indices, f"{self.spec.kind_of(name)} {name!r}", str(self._path))
        return {"x": x, **riders}

    def _checked_levels(
        self, k: Shaped[np.ndarray, "b ..."], indices: Integer[np.ndarray, " b"], levels: int
    ) -> Integer[np.ndarray, "b ..."]:
        if k.dtype != np.uint8 or levels < 256:
            bad = ((k < 0) | (k >= levels)).reshape(len(k), -1).any(axis=1)
            if bad.any():
                row, found = int(indices[bad.argmax()]), k[bad.argmax()]
                raise BadExample(
                    row,
                    f"ArraySource needs levels 0 to {levels - 1}, got {found.min()} to {found.max()} in row {row} of "
                    f"{self._path}; set levels to the number of levels, or {SKIP}.",
                )
        return k.astype(np.uint8 if levels <= 256 else np.uint16, copy=False)

    def _checked_values(
        self, x: Float[np.ndarray, "b ..."], indices: Integer[np.ndarray, " b"]
    ) -> Float[np.ndarray, "b ..."]:
        low, high = (-np.inf, np.inf) if self._value_range is None else self._value_range
        needs = "finite values" if self._value_range is None else f"values in value_range={self._value_range}"
        with np.errstate(over="ignore"):  # a value beyond float32 becomes infinite, and raises an error
            cast = x.astype(np.float32)
        check_rows(np.isfinite(cast) & (x >= low) & (x <= high), indices, "ArraySource", str(self._path), needs)
        x = cast
        return x if self._value_range is None else (x - np.float32(low)) * np.float32(2 / (high - low)) - np.float32(1)


def _check_classes(
    labels: Integer[np.ndarray, " n"], num_classes: int | None, class_names: Sequence[str] | None
) -> int:
    if class_names is not None and num_classes not in (None, len(class_names)):
        raise ValueError(f"num_classes={num_classes} needs as many class names, got {len(class_names)}; leave it out.")
    largest = int(labels.max())
    if num_classes is not None and largest >= num_classes:
        raise ValueError(f"num_classes={num_classes} needs labels below it, got {largest}.")
    return (largest + 1 if class_names is None else len(class_names)) if num_classes is None else num_classes


def _check_rows(name: str, values: Shaped[np.ndarray, "*any"], length: int) -> None:
    if not values.ndim or len(values) != length:
        raise ValueError(f"Array {name!r} needs one row for each of {length} examples, got shape {values.shape}.")


def _open_arrays(path: pathlib.Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    if path.suffix not in (".npy", ".npz"):
        raise ValueError(f"ArraySource needs an .npy or .npz file, got {path}.")
    if path.suffix == ".npz":
        return _open_npz(path, names)
    files = {name: path.with_name(f"{name}.npy") for name in names[1:]} | {names[0]: path}
    missing = [str(file) for file in files.values() if not file.is_file()]
    if missing:
        raise FileNotFoundError(f"ArraySource needs {', '.join(missing)}, which does not exist.")
    return {name: read_npy(file, _REMEDY, mapped=True) for name, file in files.items()}


def _open_npz(path: pathlib.Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise FileNotFoundError(f"ArraySource needs {path}, which does not exist.")
    archive = Npz(path, _REMEDY)
    absent = [name for name in names if name not in archive.names]
    if absent:
        raise ValueError(
            f"{path} has no array {', '.join(absent)}; it holds {', '.join(archive.names)}: set key, label_key and conditions "
            f"to these names, as data.train.key={archive.names[0] if archive.names else '…'}."
        )
    return archive.map(names)
