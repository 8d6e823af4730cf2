"""Operators that act separately on the rows and on the columns of an image: y = R_h x R_wᵀ for each channel."""

import abc

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.guidance.operators.base import Coordinates, Decomposed, Images, Measured, Shape


class Separable(Decomposed):
    """y = R_h x R_wᵀ for each channel of images [h, w, c], with a small matrix R for each axis.

    With R = U Σ Vᵀ for each axis, the singular values of the operator are the products of the
    singular values of the axes.
    """

    @abc.abstractmethod
    def axis_matrix(self, size: int) -> Float[np.ndarray, "m n"]:
        """R for an axis of n = `size` pixels, with m <= n rows."""

    def check(self, shape: Shape) -> None:
        if len(shape) != 3:
            raise ValueError(f"{type(self).__name__} needs images [h, w, c], got {shape}.")
        self.check_size(shape[0])
        self.check_size(shape[1])

    def check_size(self, size: int) -> None:
        """Raises ValueError where an axis of `size` pixels cannot be measured."""

    def __call__(self, x: Images) -> Measured:
        return _both(self.axis_matrix(x.shape[1]), x, self.axis_matrix(x.shape[2]))

    def singular_values(self, shape: Shape) -> Float[Array, "*k"]:
        rows, columns = (_padded(self.axis_matrix(size)) for size in shape[:2])
        return jnp.asarray((rows[:, None] * columns[None])[..., None], jnp.result_type(float))

    def to_coordinates(self, x: Images) -> Coordinates:
        (_, _, rows), (_, _, columns) = (_decomposed(self.axis_matrix(size)) for size in x.shape[1:3])
        return _both(rows, x, columns)

    def from_coordinates(self, z: Coordinates, shape: Shape) -> Images:
        (_, _, rows), (_, _, columns) = (_decomposed(self.axis_matrix(size)) for size in shape[:2])
        return _both(rows.T, z, columns.T)

    def measured_coordinates(self, y: Measured, shape: Shape) -> Coordinates:
        (rows, _, _), (columns, _, _) = (_decomposed(self.axis_matrix(size)) for size in shape[:2])
        z = _both(rows.T, y, columns.T)
        return jnp.pad(z, [(0, 0), (0, shape[0] - z.shape[1]), (0, shape[1] - z.shape[2]), (0, 0)])


def _decomposed(matrix):
    """(U, Σ, Vᵀ) with all of V."""
    return np.linalg.svd(np.asarray(matrix, np.float64), full_matrices=True)


def _padded(matrix):
    values = np.linalg.svd(np.asarray(matrix, np.float64), compute_uv=False)
    return np.pad(values, (0, matrix.shape[1] - len(values)))


def _both(rows, x, columns):
    rows, columns = (jnp.asarray(matrix, x.dtype) for matrix in (rows, columns))
    return jnp.einsum("ij,bjkc,lk->bilc", rows, x, columns, precision="highest")
