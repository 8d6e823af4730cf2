"""Deblurring of any kernel by the Fourier transform."""

import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from score_sde.guidance.operators.base import Coordinates, Decomposed, Images, Measured, Shape
from score_sde.internal.pytree import pytree


@pytree
class CircularBlur(Decomposed):
    """y = k * x for each channel of images [h, w, c], where the image repeats beyond its edges.

    The kernel's centre is its pixel (rows // 2, columns // 2). The kernel need not be symmetric, so
    it may be a motion blur. The coordinates are Fourier coefficients, and the singular values are
    |k̂|.

    Raises: ValueError for a kernel larger than the image.
    """

    kernel: Float[Array, "rows columns"]

    def check(self, shape: Shape) -> None:
        if len(shape) != 3 or any(k > n for k, n in zip(self.kernel.shape, shape, strict=False)):
            raise ValueError(
                f"CircularBlur needs images [h, w, c] not smaller than its kernel {self.kernel.shape}, got {shape}."
            )

    def __call__(self, x: Images) -> Measured:
        return _inverse(self._response(x.shape[1:]) * self.to_coordinates(x)).astype(x.dtype)

    def singular_values(self, shape: Shape) -> Float[Array, "*k"]:
        return jnp.abs(self._response(shape))[0]

    def to_coordinates(self, x: Images) -> Coordinates:
        return jnp.fft.fft2(x, axes=(1, 2), norm="ortho")

    def from_coordinates(self, z: Coordinates, shape: Shape) -> Images:
        return _inverse(z)

    def measured_coordinates(self, y: Measured, shape: Shape) -> Coordinates:
        response = self._response(shape)
        size = jnp.abs(response)
        phase = jnp.where(size > 0, response / jnp.where(size > 0, size, 1).astype(response.dtype), 0)
        return jnp.conj(phase) * self.to_coordinates(y)

    def _response(self, shape: Shape) -> Complex[Array, "1 h w 1"]:
        """k̂, after the kernel's centre is moved to the first pixel."""
        rows, columns = self.kernel.shape
        whole = jnp.zeros(shape[:2], self.kernel.dtype).at[:rows, :columns].set(self.kernel)
        return jnp.fft.fft2(jnp.roll(whole, (-(rows // 2), -(columns // 2)), (0, 1)))[None, ..., None]


def _inverse(z: Coordinates) -> Images:
    return jnp.real(jnp.fft.ifft2(z, axes=(1, 2), norm="ortho"))
