"""The codec between data x and the variable z of the model.

It is used in two places. `EncodedSource` encodes the examples. The generator decodes its samples,
before images are rounded to 8 bits. Networks, SDEs, objectives and solvers see only z.
"""

import abc
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.data.base import DataSpec
from score_sde.internal.pytree import pytree


class Codec(abc.ABC):
    """z = encode(x) and x ≈ decode(z), for whole batches, example by example.

    Attributes:
      is_identity: whether z = x, so that a density of z is a density of x.
    """

    is_identity: ClassVar[bool] = False

    @abc.abstractmethod
    def spec(self, data: DataSpec) -> DataSpec:
        """The spec of one encoded example, for data with the spec `data`.

        Raises: ValueError for data that it cannot encode.
        """

    @abc.abstractmethod
    def encode(self, x: Float[Array, "b *shape"]) -> Float[Array, "b *latent"]:
        """z of data in the units of the model, which are [−1, 1] for images. JAX can trace it."""

    @abc.abstractmethod
    def decode(self, z: Float[Array, "b *latent"]) -> Float[Array, "b *shape"]:
        """x in the same units, not rounded. JAX can trace it."""


@pytree
class Identity(Codec):
    """z = x: the model learns the data themselves."""

    is_identity: ClassVar[bool] = True

    def spec(self, data: DataSpec) -> DataSpec:
        return data

    def encode(self, x: Float[Array, "b *shape"]) -> Float[Array, "b *shape"]:
        return x

    def decode(self, z: Float[Array, "b *shape"]) -> Float[Array, "b *shape"]:
        return z


def check_codec(codec: Codec, data: DataSpec) -> None:
    """Raises ValueError unless the shapes of `encode` and `decode` agree with `spec` and the data."""
    latent, name = codec.spec(data), type(codec).__name__
    if latent.levels is not None and not codec.is_identity:
        raise ValueError(
            f"{name}.spec needs levels=None, for encoded numbers are not quantized, got {latent.levels}; as in "
            "dataclasses.replace(data, shape=…, levels=None)."
        )
    x = jax.ShapeDtypeStruct((2, *data.shape), jnp.float32)
    z = jax.eval_shape(codec.encode, x)
    if z.shape != (2, *latent.shape):
        raise ValueError(
            f"{name}.encode needs to give z [b, *shape] of the shape {latent.shape} that {name}.spec says, got {z.shape} "
            f"for b = 2 examples of the shape {data.shape}."
        )
    back = jax.eval_shape(codec.decode, z)
    if back.shape != x.shape:
        raise ValueError(f"{name}.decode needs to give x of the shape {x.shape}, got {back.shape} for z {z.shape}.")
