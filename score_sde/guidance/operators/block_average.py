"""Super-resolution from means over blocks of pixels."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.guidance.operators.base import Coordinates, Decomposed, Images, Measured, Shape, householder
from score_sde.internal.pytree import pytree, static


@pytree
class BlockAverage(Decomposed):
    """y = the mean over each block of factor × factor pixels, for images [h, w, c].

    Raises: ValueError unless factor >= 1 divides h and w.
    Source: Kawar et al. (DDRM), arXiv 2201.11793, App. D.
    """

    factor: int = static(default=4)

    def __post_init__(self):
        if self.factor < 1:
            raise ValueError(f"BlockAverage needs factor >= 1, got factor={self.factor}.")

    def check(self, shape: Shape) -> None:
        if len(shape) != 3 or shape[0] % self.factor or shape[1] % self.factor:
            raise ValueError(
                f"BlockAverage needs images [h, w, c] with h and w multiples of {self.factor}, got {shape}."
            )

    def __call__(self, x: Images) -> Measured:
        return jnp.mean(self._blocks(x), axis=-1)

    def singular_values(self, shape: Shape) -> Float[Array, "*k"]:
        """1/factor: a mean of n numbers has the norm 1/√n."""
        return jnp.zeros((1, 1, 1, self.factor**2)).at[..., 0].set(1 / self.factor)

    def to_coordinates(self, x: Images) -> Coordinates:
        return householder(self._blocks(x), jnp.ones(self.factor**2, x.dtype))

    def from_coordinates(self, z: Coordinates, shape: Shape) -> Images:
        blocks = householder(z, jnp.ones(self.factor**2, z.dtype))
        split = blocks.reshape(*blocks.shape[:-1], self.factor, self.factor)  # b, rows, columns, c, down, right
        return split.transpose(0, 1, 4, 2, 5, 3).reshape(z.shape[0], *shape)

    def measured_coordinates(self, y: Measured, shape: Shape) -> Coordinates:
        return jnp.pad(y[..., None], [(0, 0)] * y.ndim + [(0, self.factor**2 - 1)])

    def _blocks(self, x: Images) -> Float[Array, "b rows columns c n"]:
        """[b, h/f, w/f, c, f²]."""
        b, h, w, c = x.shape
        f = self.factor
        return x.reshape(b, h // f, f, w // f, f, c).transpose(0, 1, 3, 5, 2, 4).reshape(b, h // f, w // f, c, f * f)
