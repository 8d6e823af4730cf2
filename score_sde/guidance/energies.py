"""Energies: differentiable functions with low values for good images."""

import abc
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.internal.per_example import sum_of_squares
from score_sde.internal.pytree import pytree
from score_sde.sdes.base import Time


class Energy(abc.ABC):
    """E(x, t) of each image, for x = x̂0 or x_t. Any function of this form is an energy."""

    @abc.abstractmethod
    def __call__(self, x: Float[Array, "b *shape"], t: Time) -> Float[Array, " b"]:
        """E, one number for each image. It must not depend on the other images of the batch."""


@pytree
class Quadratic(Energy):
    """E = ½ precision ‖x − target‖², which draws an image towards `target`.

    Attributes:
      target: a number, one number for each channel, or an array like one image.
      precision: the strength.
    """

    target: float | Sequence[int | float] | Float[Array, "..."] = 0.0
    precision: float = 1.0

    def __call__(self, x: Float[Array, "b *shape"], t: Time) -> Float[Array, " b"]:
        difference = x - _like_image(self.target, x)
        return 0.5 * self.precision * sum_of_squares(difference)


@pytree
class MeanColor(Energy):
    """E = ½ precision ‖mean of the image over its positions − color‖², for pictures of one tint.

    Attributes:
      color: one number for each channel, in the units of x.
      precision: the strength.
    """

    color: Sequence[int | float] = (0.0,)
    precision: float = 1.0

    def __call__(self, x: Float[Array, "b *shape"], t: Time) -> Float[Array, " b"]:
        means = jnp.mean(x.reshape(len(x), -1, x.shape[-1]), axis=1)
        return 0.5 * self.precision * jnp.sum((means - _like_image(self.color, means)) ** 2, axis=1)


def _like_image(values: float | Sequence[int | float] | Float[Array, "..."], x: Float[Array, "b *shape"]) -> Array:
    """Values broadcast to one image, with a batch axis of 1."""
    return jnp.broadcast_to(jnp.asarray(values, x.dtype), x.shape[1:])[None]


ENERGIES: dict[str, type[Energy]] = {"quadratic": Quadratic, "mean_color": MeanColor}
