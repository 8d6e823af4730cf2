"""Compressed sensing: the measurement is random mixtures of the pixels, fewer than there are pixels."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from score_sde.guidance.operators.base import Coordinates, Decomposed, Images, Measured, Shape
from score_sde.internal.pytree import pytree, static


@pytree
class RandomProjection(Decomposed):
    """y = S C D x: random signs D, the orthonormal cosine transform C of all pixels, and `number` of its coefficients, S.

    The rows are orthonormal, and each row mixes all pixels. A takes O(n log n) operations and no
    matrix. Equal fields give the same operator.

    Raises: ValueError unless number is from 1 to the number of pixels and channels.
    Source: Ailon and Chazelle, SIAM J. Comput. 39 (2009), with cosines in place of Walsh functions.
    """

    number: int = static(default=100)
    seed: int = static(default=0)

    def __post_init__(self):
        if self.number < 1:
            raise ValueError(f"RandomProjection needs number >= 1, got number={self.number}.")

    def check(self, shape: Shape) -> None:
        if self.number > math.prod(shape):
            raise ValueError(
                f"RandomProjection needs number <= {math.prod(shape)}, the size of an image {shape}, got {self.number}."
            )

    def __call__(self, x: Images) -> Measured:
        return self.to_coordinates(x)[:, self._chosen(math.prod(x.shape[1:]))]

    def singular_values(self, shape: Shape) -> Float[Array, "*k"]:
        size = math.prod(shape)
        return jnp.zeros(size).at[self._chosen(size)].set(1)

    def to_coordinates(self, x: Images) -> Coordinates:
        flat = x.reshape(x.shape[0], -1)
        return jax.scipy.fft.dct(self._signs(flat.shape[1])[None].astype(x.dtype) * flat, norm="ortho", axis=1)

    def from_coordinates(self, z: Coordinates, shape: Shape) -> Images:
        signs = self._signs(z.shape[1])[None].astype(z.dtype)
        return (signs * jax.scipy.fft.idct(z, norm="ortho", axis=1)).reshape(z.shape[0], *shape)

    def measured_coordinates(self, y: Measured, shape: Shape) -> Coordinates:
        size = math.prod(shape)
        return jnp.zeros((y.shape[0], size), y.dtype).at[:, self._chosen(size)].set(y)

    def _signs(self, size: int) -> Float[Array, " n"]:
        return jax.random.rademacher(jax.random.key(self.seed), (size,), jnp.result_type(float))

    def _chosen(self, size: int) -> Int[Array, " m"]:
        return jax.random.permutation(jax.random.fold_in(jax.random.key(self.seed), 1), size)[: self.number]
