"""Phase retrieval: the measurement is the absolute value of each Fourier coefficient."""

import jax.numpy as jnp

from score_sde.guidance.operators.base import Images, Measured, Operator, Shape
from score_sde.internal.pytree import pytree, static


@pytree
class PhaseRetrieval(Operator):
    """y = |F P x| for each channel of images [h, w, c]: P pads the image with zeros, F is the orthonormal Fourier transform.

    The padded image is `oversampling` times as large along both axes. An image that is rotated by
    180 degrees, or moved, has the same y.

    Raises: ValueError unless oversampling >= 1.
    Source: DPS, arXiv 2209.14687, App. D, whose oversampling is 2.
    """

    oversampling: float = static(default=2.0)

    def __post_init__(self):
        if not self.oversampling >= 1:
            raise ValueError(f"PhaseRetrieval needs oversampling >= 1, got oversampling={self.oversampling}.")

    def check(self, shape: Shape) -> None:
        if len(shape) != 3:
            raise ValueError(f"PhaseRetrieval needs images [h, w, c], got {shape}.")

    def __call__(self, x: Images) -> Measured:
        more = [round(size * (self.oversampling - 1)) for size in x.shape[1:3]]
        padded = jnp.pad(x, [(0, 0), *((add // 2, add - add // 2) for add in more), (0, 0)])
        transformed = jnp.fft.fft2(padded, axes=(1, 2), norm="ortho")
        square = jnp.real(transformed) ** 2 + jnp.imag(transformed) ** 2
        is_positive = square > 0  # at 0 the root has no derivative
        return jnp.where(is_positive, jnp.sqrt(jnp.where(is_positive, square, 1)), 0)
