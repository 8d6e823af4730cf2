"""Removal of JPEG artifacts: the measurement is the rounded cosine coefficients of each block of 8 × 8 pixels."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.guidance.operators.base import Images, Measured, Operator, Shape
from score_sde.internal.pytree import pytree

# ITU-T T.81, Annex K, Table K.1: steps of the luminance's coefficients at quality 50, for pixels 0 … 255.
STEPS = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
SIZE = 8


@pytree
class Jpeg(Operator):
    """y = the image with the cosine coefficients of each 8 × 8 block of each channel rounded to multiples of JPEG's steps.

    Images [h, w, c] are in [−1, 1]. There is no change of colour space and no subsampling of
    colours. Rounding has no derivative. Here it has the derivative of the function
    without rounding.

    Raises: ValueError unless 1 <= quality <= 100, or for sides that are not multiples of 8.
    Source: ITU-T T.81, Annexes A.3.3 and K; the scale of quality: the Independent JPEG Group's
      library.
    """

    quality: float = 10.0

    def __post_init__(self):
        if not 1 <= self.quality <= 100:
            raise ValueError(f"Jpeg needs 1 <= quality <= 100, got quality={self.quality}.")

    def check(self, shape: Shape) -> None:
        if len(shape) != 3 or shape[0] % SIZE or shape[1] % SIZE:
            raise ValueError(f"Jpeg needs images [h, w, c] with h and w multiples of {SIZE}, got {shape}.")

    def __call__(self, x: Images) -> Measured:
        b, h, w, c = x.shape
        blocks = x.reshape(b, h // SIZE, SIZE, w // SIZE, SIZE, c)
        coefficients = _along(jax.scipy.fft.dct, blocks) / self._steps(x.dtype)
        rounded = coefficients + jax.lax.stop_gradient(jnp.round(coefficients) - coefficients)
        return _along(jax.scipy.fft.idct, rounded * self._steps(x.dtype)).reshape(x.shape)

    def _steps(self, dtype) -> Float[Array, "1 1 8 1 8 1"]:
        """The steps in units of images in [−1, 1], where 255 levels are 2."""
        quality = jnp.asarray(self.quality, dtype)
        scale = jnp.where(quality < 50, 50 / quality, 2 - quality / 50)
        steps = jnp.clip(jnp.floor(scale * jnp.asarray(STEPS, dtype) + 0.5), 1, 255)
        return (steps / 127.5).reshape(1, 1, SIZE, 1, SIZE, 1)


def _along(transform, blocks):
    """The transform along both axes of each block."""
    return transform(transform(blocks, norm="ortho", axis=2), norm="ortho", axis=4)
