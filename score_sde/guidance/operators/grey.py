"""Colorization: the measurement is a weighted sum of the channels."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.guidance.operators.base import Coordinates, Decomposed, Images, Measured, Shape, householder
from score_sde.internal.pytree import pytree


@pytree
class Grey(Decomposed):
    """y = Σ_c w_c x_c, an image of one channel.

    Raises: ValueError for weights that are all 0, or images with another number of channels.
    Source: the mean of the channels, as in arXiv 2011.13456, App. I.2, and in DDRM and DDNM.
    """

    weights: tuple[float, ...] = (1 / 3, 1 / 3, 1 / 3)

    def __post_init__(self):
        if not any(self.weights):
            raise ValueError(f"Grey needs weights that are not all 0, got weights={self.weights}.")

    def check(self, shape: Shape) -> None:
        if not shape or shape[-1] != len(self.weights):
            raise ValueError(f"Grey needs images with {len(self.weights)} channels, one for each weight, got {shape}.")

    def __call__(self, x: Images) -> Measured:
        return (x @ self._weights(x.dtype))[..., None]

    def singular_values(self, shape: Shape) -> Float[Array, "*k"]:
        weights = self._weights()
        return jnp.zeros_like(weights).at[0].set(jnp.linalg.norm(weights)).reshape(*(1,) * (len(shape) - 1), -1)

    def to_coordinates(self, x: Images) -> Coordinates:
        return householder(x, self._weights(x.dtype))

    def from_coordinates(self, z: Coordinates, shape: Shape) -> Images:
        return householder(z, self._weights(z.dtype))

    def measured_coordinates(self, y: Measured, shape: Shape) -> Coordinates:
        return jnp.pad(y, [(0, 0)] * (y.ndim - 1) + [(0, shape[-1] - 1)])

    def _weights(self, dtype=None) -> Float[Array, " c"]:
        return jnp.asarray(self.weights, dtype or jnp.result_type(float))
