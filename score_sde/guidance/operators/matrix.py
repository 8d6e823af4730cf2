"""Any linear operator of a small problem, as a matrix."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.guidance.operators.base import Coordinates, Decomposed, Images, Measured, Shape
from score_sde.internal.pytree import pytree


@pytree
class Matrix(Decomposed):
    """y = A x of the flattened image. It stores m × n numbers and decomposes them, so it is for small problems.

    Raises: ValueError for images of another size than the matrix has columns.
    """

    matrix: Float[Array, "m n"]

    def check(self, shape: Shape) -> None:
        if math.prod(shape) != self.matrix.shape[1]:
            raise ValueError(f"Matrix {self.matrix.shape} needs images of {self.matrix.shape[1]} numbers, got {shape}.")

    def __call__(self, x: Images) -> Measured:
        return x.reshape(x.shape[0], -1) @ self.matrix.T.astype(x.dtype)

    def singular_values(self, shape: Shape) -> Float[Array, "*k"]:
        values = jnp.linalg.svd(self.matrix, compute_uv=False)
        return jnp.pad(values, (0, self.matrix.shape[1] - len(values)))

    def to_coordinates(self, x: Images) -> Coordinates:
        return x.reshape(x.shape[0], -1) @ self._decomposed()[1].T.astype(x.dtype)

    def from_coordinates(self, z: Coordinates, shape: Shape) -> Images:
        return (z @ self._decomposed()[1].astype(z.dtype)).reshape(z.shape[0], *shape)

    def measured_coordinates(self, y: Measured, shape: Shape) -> Coordinates:
        n = self.matrix.shape[1]
        z = (y @ self._decomposed()[0].astype(y.dtype))[:, :n]
        return jnp.pad(z, ((0, 0), (0, n - z.shape[1])))

    def _decomposed(self):
        """(U, Vᵀ), both whole."""
        u, _, vh = jnp.linalg.svd(self.matrix, full_matrices=True)
        return u, vh
