"""An array file: .npy, or .npz with several arrays."""

import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int32, Integer, Shaped

from score_sde.data.base import DataSpec, Examples, Source, as_condition, as_path, condition_names
from score_sde.data.classes import labels_of
from score_sde.data.digests import digest_of_array, digest_of_json
from score_sde.guarded import Npz, read_npy

FAR = 32.0  # well beyond normalized images and the latents of autoencoders, well within 0 to 255
LOOKED_AT = 64  # rows, at construction
_REMEDY = "write it again with np.savez"


class ArraySource(Source):
    """Example i is row i of an array [n, *shape]: images [n, h, w, c], signals [n, length, c], points [n, d].

    Unsigned 8-bit arrays are quantized data of 256 levels, boolean ones of 2; other integers need `levels`. Floating
    arrays are continuous data. Files are mapped into memory, not read, where they are stored plainly (.npy, and .npz by
    `np.savez`); compressed .npz are read at once.

    Args:
        path: the .npy or .npz file.
        key: name of the data in an .npz file.
        label_key: name of the labels [n], integers or class names (texts, numbered in alphabetical order); None: no labels.
        conditions: further arrays [n, ...] that ride along: the network's name -> the file's, or a list where they agree.
        levels: number of quantization levels of an integer array; None: 256 for uint8, 2 for bool.
        value_range: (low, high) of a floating array, mapped to [−1, 1]; None takes the values as they are.
        channels: size that the last axis must have; None accepts any, but of quantized [n, length, c] at most 4,
            as more may be the width of grey images without a channel axis.
        num_classes: number of classes; None: the largest label + 1, or the number of names.
        class_names: the name of class 0, 1, … of integer labels; None: they have none.

    A name is a member of the .npz file; beside an .npy file it is the file `name.npy` in the same folder.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if an array is missing, or has the wrong type, length, shape or range.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        key: str = "x",
        label_key: str | None = None,
        conditions: Mapping[str, str] | Sequence[str] | None = None,
        levels: int | None = None,
        value_range: tuple[float, float] | None = None,
        channels: int | None = None,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
    ):
        self._path, renamed = as_path(path, "ArraySource"), condition_names(conditions)
        names = [key, *([] if label_key is None else [label_key]), *renamed.values()]
        arrays = _open_arrays(self._path, names)
        self._x = arrays[key]
        self._value_range = value_range
        levels = _check_data(self._path, self._x, levels, value_range, channels)
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
            conditions={name: values.shape[1:] for name, values in self._riders.items()},
            class_names=None if class_names is None else tuple(class_names),
        )

    def __len__(self) -> int:
        return len(self._x)

    def labels(self) -> Int32[np.ndarray, " n"]:
        """Copies the labels; x is not read."""
        return self._riders["label"].copy()

    def digest(self) -> str:
        """Of all arrays that are read, large ones by parts (`digests`); not of the file's name or format."""
        arrays = {"x": self._x, **self._riders}
        return digest_of_json({name: digest_of_array(values) for name, values in arrays.items()})

    def gather(self, indices: Integer[np.ndarray, " b"]) -> Examples:
        """Copies the rows at `indices`."""
        x = np.asarray(self._x[indices])
        levels = self.spec.levels
        x = self._checked_values(x, indices) if levels is None else self._checked_levels(x, indices, levels)
        return {"x": x, **{name: as_condition(np.asarray(v[indices]), name) for name, v in self._riders.items()}}

    def _checked_levels(
        self, k: Shaped[np.ndarray, "b ..."], indices: Integer[np.ndarray, " b"], levels: int
    ) -> Integer[np.ndarray, "b ..."]:
        if k.dtype != np.uint8 or levels < 256:
            bad = ((k < 0) | (k >= levels)).reshape(len(k), -1).any(axis=1)
            if bad.any():
                row = indices[bad.argmax()]
                raise ValueError(
                    f"ArraySource needs levels 0 to {levels - 1}, got {k[bad].min()} to {k[bad].max()} in row "
                    f"{row} of {self._path}; set levels to the number of levels."
                )
        return k.astype(np.uint8 if levels <= 256 else np.uint16, copy=False)

    def _checked_values(
        self, x: Float[np.ndarray, "b ..."], indices: Integer[np.ndarray, " b"]
    ) -> Float[np.ndarray, "b ..."]:
        low, high = (-np.inf, np.inf) if self._value_range is None else self._value_range
        bad = ~(np.isfinite(x) & (x >= low) & (x <= high)).reshape(len(x), -1).all(axis=1)
        if bad.any():
            where = "finite values" if self._value_range is None else f"values in value_range={self._value_range}"
            raise ValueError(f"ArraySource needs {where}, got others in row {indices[bad.argmax()]} of {self._path}.")
        x = x.astype(np.float32)
        return x if self._value_range is None else (x - np.float32(low)) * np.float32(2 / (high - low)) - np.float32(1)


def _check_data(
    path: pathlib.Path,
    x: Shaped[np.ndarray, "*any"],
    levels: int | None,
    value_range: tuple[float, float] | None,
    channels: int | None,
) -> int | None:
    """Checks the data array and returns its number of levels."""
    if x.ndim < 2 or not len(x):
        raise ValueError(f"ArraySource needs an array [n, ...] with n >= 1 and another axis, got {x.shape} in {path}.")
    if channels is not None and x.shape[-1] != channels:
        raise ValueError(
            f"ArraySource needs {channels} channels on the last axis, got shape {x.shape} in {path}; "
            "move the channel axis to the end (np.moveaxis(x, 1, -1)), or set channels."
        )
    if x.dtype.kind == "f":
        _check_scale(path, x, value_range)
        if levels is not None or (value_range is not None and not value_range[0] < value_range[1]):
            raise ValueError(f"A floating array needs levels=None and low < high, got {levels=}, {value_range=}.")
        return None
    levels = {"uint8": 256, "bool": 2}.get(x.dtype.name) if levels is None else levels
    if levels is None or x.dtype.kind not in "iub":
        raise ValueError(
            f"ArraySource needs uint8, bool or floating data, or integers with levels set, got {x.dtype} in {path}."
        )
    if x.ndim == 3 and channels is None and x.shape[-1] > 4:
        raise ValueError(
            f"ArraySource needs images [n, h, w, c] or signals [n, length, c], got {x.dtype} of shape {x.shape} in {path}, "
            f"which may be grey images; add their channel axis (x[..., None]), or set channels={x.shape[-1]} for signals."
        )
    if value_range is not None:
        raise ValueError(f"Quantized data map to [-1, 1] by their levels, got {value_range=}; leave it out.")
    return levels


def _check_scale(path: pathlib.Path, x: Shaped[np.ndarray, "*any"], value_range: tuple[float, float] | None) -> None:
    """Raises ValueError where floating images look like numbers from 0 to 255; other data may have any unit."""
    if x.ndim != 4 or value_range is not None:
        return
    seen = np.asarray(x[:LOOKED_AT])
    low, high = float(seen.min()), float(seen.max())
    if low >= 0 and FAR < high <= 255:
        raise ValueError(
            f"ArraySource needs floating images of about [-1, 1], got values from {low:g} to {high:g} in {path}, like 8-bit "
            "levels; set value_range=(0.0, 255.0) to map them there, or save them as uint8."
        )


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
        raise ValueError(f"{path} has no array {', '.join(absent)}; it holds {', '.join(archive.names)}: set the keys.")
    return archive.map(names)
