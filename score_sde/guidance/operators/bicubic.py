"""Super-resolution from an image that was reduced by bicubic interpolation."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from score_sde.guidance.operators.separable import Separable
from score_sde.internal.pytree import pytree, static


@pytree
class Bicubic(Separable):
    """y = the image reduced by `factor` along both axes, by bicubic interpolation with anti-aliasing; images [h, w, c].

    Raises: ValueError unless factor >= 1 divides h and w.
    Source: Keys, 1981, with a = −1/2, as in Pillow and jax.image.
    """

    factor: int = static(default=4)

    def __post_init__(self):
        if self.factor < 1:
            raise ValueError(f"Bicubic needs factor >= 1, got factor={self.factor}.")

    def check_size(self, size: int) -> None:
        if size % self.factor:
            raise ValueError(f"Bicubic needs images whose sides are multiples of {self.factor}, got {size} pixels.")

    def axis_matrix(self, size: int) -> Float[np.ndarray, "m n"]:
        with jax.ensure_compile_time_eval():
            basis = jnp.eye(size, dtype=jnp.float32)
            small = jax.image.resize(basis, (size // self.factor, size), "cubic", antialias=True)
        return np.asarray(small)
