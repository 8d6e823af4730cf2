"""A codec of the user's own, as "tests.latents.own:SpaceToDepth" in a config."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from score_sde.internal.pytree import pytree, static
from score_sde.latents import Codec


@pytree
class SpaceToDepth(Codec):
    """Blocks of size × size pixels become channels, which are then multiplied by gain and mixed by an orthogonal matrix.

    Attributes:
      gain: of the encoded numbers.
      size: of the blocks.
    """

    gain: float = 1.0
    size: int = static(default=2)

    def spec(self, data):
        height, width, channels = data.shape
        shape = (height // self.size, width // self.size, channels * self.size**2)
        return dataclasses.replace(data, shape=shape, levels=None)

    def encode(self, x):
        b, height, width, channels = x.shape
        blocks = x.reshape(b, height // self.size, self.size, width // self.size, self.size, channels)
        z = jnp.moveaxis(blocks, 2, 3).reshape(b, height // self.size, width // self.size, -1)
        return self.gain * z @ self._mixing(z.shape[-1])

    def decode(self, z):
        b, height, width, depth = z.shape
        blocks = (z / self.gain @ self._mixing(depth).T).reshape(b, height, width, self.size, self.size, -1)
        return jnp.moveaxis(blocks, 3, 2).reshape(b, height * self.size, width * self.size, -1)

    def _mixing(self, depth):
        return jnp.asarray(np.linalg.qr(np.random.default_rng(0).standard_normal((depth, depth)))[0], jnp.float32)


class Pixelwise(nn.Module):
    """A network that compiles at once: it sees each pixel alone, and not the label that it is told."""

    width: int = 8
    num_classes: int | None = None

    @nn.compact
    def __call__(self, x, noise_label, condition=None, train=False):
        h = nn.tanh(nn.Dense(self.width)(x) + 0.1 * noise_label[:, None, None, None])
        return nn.Dense(x.shape[-1])(h)


class Wrong(SpaceToDepth):
    """Its encoded numbers are not those that spec describes."""

    def encode(self, x):
        return x


class Lossy(SpaceToDepth):
    """It gives back the first block alone."""

    def decode(self, z):
        return super().decode(z)[:, : self.size]


class Quantized(SpaceToDepth):
    """It keeps the levels of the data, by which encoded numbers would be scaled."""

    def spec(self, data):
        return dataclasses.replace(super().spec(data), levels=data.levels)


def calls_of(codec):
    """(the codec, the list that gets the number of examples of each call of its encode)."""
    calls = []

    class Counted(type(codec)):
        def encode(self, x):
            if not isinstance(x, jax.core.Tracer):
                calls.append(len(x))
            return super().encode(x)

    return Counted(codec.gain), calls
