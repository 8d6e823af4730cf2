"""A source of arrays in memory."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Int32, Integer, Shaped

from score_sde.data.array_checks import FAR
from score_sde.data.base import DataSpec, Examples, Source, as_condition, as_labels, check_finite
from score_sde.data.digests import digest_of_array, digest_of_json


class InMemory(Source):
    """Example i is row i of an array [n, *shape]: images [n, h, w, c], signals [n, length, c], points [n, d].

    Args:
      x: the examples. Unsigned 8-bit numbers are quantized data with 256 levels, which the model
        sees in [−1, 1]. Floating numbers are continuous data and are not scaled; scale them to
        about [−1, 1] first.
      label: the class of each example, as numbers from 0.
      **conditions: further arrays [n, ...] for the network, under the network's names.
    Raises: ValueError for arrays of another type or length, or values that are not finite.
    """

    def __init__(
        self,
        x: Shaped[np.ndarray, "*n_shape"],
        label: Shaped[np.ndarray, "*any"] | None = None,
        **conditions: np.ndarray,
    ):
        self._x = _checked_data(np.asarray(x))
        riders = {} if label is None else {"label": as_labels(np.asarray(label), "label")}
        riders |= {name: as_condition(np.asarray(values), name) for name, values in conditions.items()}
        for name, values in riders.items():
            if not values.ndim or len(values) != len(self._x):
                raise ValueError(
                    f"Array {name!r} needs one row for each of {len(self._x)} examples, got shape {values.shape}."
                )
            check_finite(values, np.arange(len(values)), f"Condition {name!r}", "the array")
        self._riders: Examples = riders
        self.spec = DataSpec(
            shape=self._x.shape[1:],
            levels=256 if self._x.dtype == np.uint8 else None,
            num_classes=None if label is None else int(riders["label"].max()) + 1,
            conditions={name: values.shape[1:] for name, values in riders.items()},
        )

    def __len__(self) -> int:
        return len(self._x)

    def gather(self, indices: Integer[np.ndarray, " b"]) -> Examples:
        """The rows at `indices`, copied."""
        return {name: values[indices] for name, values in {"x": self._x, **self._riders}.items()}

    def labels_at(self, indices: Integer[np.ndarray, " b"]) -> Int32[np.ndarray, " b"]:
        """The labels at `indices`."""
        return self._riders["label"][indices]

    def digest(self) -> str:
        """The digest of all arrays, by blocks for large arrays (`digests`)."""
        return digest_of_json({n: digest_of_array(v) for n, v in {"x": self._x, **self._riders}.items()})


def as_source(data: Source | np.ndarray | Mapping[str, np.ndarray]) -> Source:
    """The source itself, or a source of an array or of {"x": …, "label": …, other conditions}.

    Raises: ValueError as `InMemory`, or for a mapping without "x".
    """
    if isinstance(data, Source):
        return data
    if not isinstance(data, Mapping):
        return InMemory(np.asarray(data))
    if "x" not in data:
        raise ValueError(f"Data need 'x', the examples that are learned, got only {sorted(data)}.")
    return InMemory(**{name: np.asarray(values) for name, values in data.items()})


def _checked_data(x: np.ndarray) -> np.ndarray:
    if x.ndim < 2 or not len(x):
        raise ValueError(f"Data need an array [n, *shape of one example] with n >= 1, got shape {x.shape}.")
    if x.dtype.kind == "f":
        values = x.astype(np.float32)
        check_finite(values, np.arange(len(x)), "InMemory", "the array")
        low, high = values.min(), values.max()
        if max(-low, high) > FAR or (values.ndim == 4 and low >= 0 and 0.5 < high <= 1):
            raise ValueError(
                f"Floating data are taken as they are, so that the model sees values from {low:g} to {high:g}; scale them to "
                "about [-1, 1] first, as by 2 * x - 1 for images in [0, 1], or give images of 8 bits as uint8."
            )
        return values
    if x.dtype != np.uint8:
        raise ValueError(
            f"Data need 8-bit levels (uint8) or floating numbers, got {x.dtype}; cast them, as by x.astype(np.float32), and "
            "scale them to about [-1, 1]; integers of other levels come through ArraySource(path, levels=…)."
        )
    return x
