"""The tensors of a published network, each taken exactly once and with a known shape."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

SHOWN = 5  # names in a message


class Published(NamedTuple):
    """A published network as ours.

    Attributes:
      network: the section `network` of a config.
      params: the parameters of that network.
    """

    network: dict[str, Any]
    params: dict[str, Any]


class Tensors:
    """Tensors by the authors' names. What is missing, left over or of another shape is named by `finish`.

    Args:
      tensors: name -> array, in PyTorch's order of axes.
      what: what they are of, for messages.
    """

    def __init__(self, tensors: Mapping[str, Any], what: str) -> None:
        self.tensors, self.what = tensors, what
        self.taken: set[str] = set()
        self.wrong: list[str] = []

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def size(self, name: str, axis: int) -> int:
        """The length of an axis of a tensor, by which the sizes of the network are known.

        Raises: ValueError where there is no such tensor.
        """
        shape = np.shape(self.tensors[name]) if name in self.tensors else ()
        if axis >= len(shape):
            raise ValueError(
                f"{self.what} needs the tensor {name!r} with {axis + 1} axes or more, got "
                f"{shape if name in self.tensors else 'none'}; is the file of another network?"
            )
        return shape[axis]

    def count(self, prefix: str, suffix: str) -> int:
        """The number of consecutive i from 0 for which there is a tensor `prefix`i`suffix`."""
        number = 0
        while f"{prefix}{number}{suffix}" in self.tensors:
            number += 1
        return number

    def take(self, name: str, *shape: int) -> Any:
        """The tensor of this name. Zeros stand for one that is missing or of another shape, until `finish` names it."""
        if name in self.taken:
            raise ValueError(
                f"{self.what}: the tensor {name!r} would be used twice; the mapping of its names is wrong."
            )
        self.taken.add(name)
        if name not in self.tensors:
            self.wrong.append(f"{name} is missing")
            return np.zeros(shape, np.float32)
        tensor = self.tensors[name]
        if tuple(tensor.shape) != shape:
            self.wrong.append(f"{name} has shape {tuple(tensor.shape)} instead of {shape}")
            return np.zeros(shape, np.float32)
        return tensor

    def linear(self, name: str, inputs: int, outputs: int, *, bias: bool = True) -> dict[str, Any]:
        """A linear map y = W x + b, with W [outputs, inputs], as kernel and bias."""
        layer = {"kernel": self.take(f"{name}.weight", outputs, inputs).T}
        return layer | ({"bias": self.take(f"{name}.bias", outputs)} if bias else {})

    def patches(self, name: str, channels: int, patch_size: int, outputs: int, *, bias: bool = True) -> dict[str, Any]:
        """A convolution whose stride is its width, as a linear map of patches in the order rows, columns, channels."""
        weight = self.take(f"{name}.weight", outputs, channels, patch_size, patch_size)
        layer = {"kernel": weight.transpose(2, 3, 1, 0).reshape(patch_size**2 * channels, outputs)}
        return layer | ({"bias": self.take(f"{name}.bias", outputs)} if bias else {})

    def qkv(self, name: str, width: int, *, bias: bool = True) -> dict[str, Any]:
        """Query, key and value, which stand one after another in one linear map."""
        joint = self.linear(name, width, 3 * width, bias=bias)
        return {
            part: {end: array[..., i * width : (i + 1) * width] for end, array in joint.items()}
            for i, part in enumerate(("query", "key", "value"))
        }

    def norm(self, name: str, width: int, *, bias: bool) -> dict[str, Any]:
        """The scale, and the bias where there is one, of a norm."""
        return {"scale": self.take(f"{name}.weight", width)} | (
            {"bias": self.take(f"{name}.bias", width)} if bias else {}
        )

    def finish(self) -> None:
        """Raises ValueError where a tensor was missing, had another shape, or was never taken."""
        left = [f"{name} is not a tensor of this network" for name in self.tensors if name not in self.taken]
        wrong = self.wrong + left
        if wrong:
            more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
            raise ValueError(
                f"{self.what} does not fit the network: {'; '.join(wrong[:SHOWN])}{more}. Give the file of this network, or "
                "the fields with which it was trained."
            )


def with_null_row(table: Any, *, has_null: bool) -> Any:
    """A table of classes whose last row is the null class: zeros where the published network has none."""
    return table if has_null else jnp.concatenate([jnp.asarray(table), jnp.zeros_like(table[:1])])
