"""Inpainting: the measurement is a part of the pixels."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.guidance.operators.base import Coordinates, Decomposed, Images, Measured, Shape
from score_sde.internal.pytree import pytree


@pytree
class Mask(Decomposed):
    """y = m x, with m = 1 where a pixel is measured and 0 where it is not.

    The mask has the shape of one image, or a shape that is broadcast to it, such as [h, w, 1].

    Raises: ValueError for other values than 0 and 1, or for images of another shape.
    """

    mask: Float[Array, "*shape"]

    def __post_init__(self):
        if not bool(jnp.all((self.mask == 0) | (self.mask == 1))):
            raise ValueError(f"Mask needs values 0 and 1, got values from {self.mask.min()} to {self.mask.max()}.")

    def check(self, shape: Shape) -> None:
        mask = self.mask.shape
        if len(mask) != len(shape) or any(m not in (1, n) for m, n in zip(mask, shape, strict=False)):
            raise ValueError(f"Mask needs a mask of the shape of one image, {shape} (or 1 along an axis), got {mask}.")

    def __call__(self, x: Images) -> Measured:
        return self.mask[None].astype(x.dtype) * x

    def singular_values(self, shape: Shape) -> Float[Array, "*k"]:
        return self.mask

    def to_coordinates(self, x: Images) -> Coordinates:
        return x

    def from_coordinates(self, z: Coordinates, shape: Shape) -> Images:
        return z

    def measured_coordinates(self, y: Measured, shape: Shape) -> Coordinates:
        return self(y)
