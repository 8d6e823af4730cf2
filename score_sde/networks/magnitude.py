"""Layers that keep the magnitude of what passes through: of inputs with unit variance, the outputs have it too.

The weights of a layer are divided by their norm each time they are used. The parameters that are
used so are called "unit_kernel". The optimizer keeps their norm at 1 as well (forced weight
normalization, `training.optimizers`).

Source: Karras et al., arXiv 2312.02696, App. B.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from score_sde.internal.unit_kernel import UNIT_KERNEL, normalized
from score_sde.networks.kernels.winograd import conv_general_dilated
from score_sde.networks.layers import wide

SWISH_MAGNITUDE = 0.596  # √E swish(z)² for z ~ N(0, 1)


def mp_swish(x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
    """swish(x)/0.596. Source: arXiv 2312.02696, Eq. 81."""
    return nn.swish(x) / SWISH_MAGNITUDE


def mp_sum(a: Float[Array, "*b c"], b: Float[Array, "*b c"], t: float = 0.5) -> Float[Array, "*b c"]:
    """((1 − t) a + t b)/√((1 − t)² + t²). Source: arXiv 2312.02696, Eq. 88."""
    return (a + t * (b - a)) / math.hypot(1 - t, t)


def mp_concatenate(a: Float[Array, "*b p"], b: Float[Array, "*b q"], t: float = 0.5) -> Float[Array, "*b r"]:
    """a and b along the last axis, with the shares 1 − t and t of the squared magnitude, whatever their numbers of features.

    Source: arXiv 2312.02696, Eq. 103.
    """
    p, q = a.shape[-1], b.shape[-1]
    scale = math.sqrt(p + q) / math.hypot(1 - t, t)
    return jnp.concatenate([scale * (1 - t) / math.sqrt(p) * a, scale * t / math.sqrt(q) * b], axis=-1)


def pixel_norm(x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
    """x divided by the root mean square of its features, at each place. Source: arXiv 2312.02696, Eq. 30."""
    return normalized(x, (-1,))


class MPFourier(nn.Module):
    """√2 cos(2π (ω c + φ)) with ω ~ N(0, bandwidth²) and φ ~ U(0, 1), drawn once and never trained.

    The parameters hold 2π ω and 2π φ. They get no gradient.

    Source: arXiv 2312.02696, Eq. 75.
    """

    num_features: int
    bandwidth: float = 1.0

    @nn.compact
    def __call__(self, noise_label: Float[Array, " b"]) -> Float[Array, "b num_features"]:
        shape = (self.num_features,)
        frequencies = self.param("frequencies", nn.initializers.normal(2 * math.pi * self.bandwidth), shape)
        phases = self.param("phases", nn.initializers.uniform(2 * math.pi), shape)
        frequencies, phases = (jax.lax.stop_gradient(p).astype(noise_label.dtype) for p in (frequencies, phases))
        return math.sqrt(2) * jnp.cos(noise_label[:, None] * frequencies[None] + phases[None])


def unit_normal(key: Any, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    """Draws from N(0, 1), then divides the weights of each output by their root mean square."""
    return normalized(jax.random.normal(key, shape, dtype), range(len(shape) - 1))


class MPConv(nn.Module):
    """y = gain · W ⋆ x/‖W‖, without a bias, with the norm over the weights of each output.

    Attributes:
      features: the number of outputs.
      window: 3 for a convolution with a kernel 3 wide along every axis, and 1 for a map of the
        features.
      dtype: the type of the product. The norm is in float32.

    Source: arXiv 2312.02696, Eqs. 47 and 66.
    """

    features: int
    window: int = 1
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b ... c"], gain: Float[Array, ""] | float = 1.0
    ) -> Float[Array, "b ... features"]:
        rank = x.ndim - 2 if self.window > 1 else 0
        shape = (*(self.window,) * rank, x.shape[-1], self.features)
        kernel = self.param(UNIT_KERNEL, unit_normal, shape).astype(wide(self.dtype))
        kernel = normalized(kernel, range(len(shape) - 1)) * (gain / math.sqrt(math.prod(shape[:-1])))
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        if not rank:
            return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], self.features)
        numbers = jax.lax.ConvDimensionNumbers(
            (0, rank + 1, *range(1, rank + 1)), (rank + 1, rank, *range(rank)), (0, rank + 1, *range(1, rank + 1))
        )
        return conv_general_dilated(x, kernel, (1,) * rank, "SAME", dimension_numbers=numbers)


class MPUncertainty(nn.Module):
    """u(c), the learned log-variance of the loss at c = log(σ/α)/4: `MPConv` of `MPFourier`.

    Source: arXiv 2312.02696, Eq. 14 and App. B.1.
    """

    num_features: int = 128

    @nn.compact
    def __call__(self, noise_label: Float[Array, " b"]) -> Float[Array, " b"]:
        features = MPFourier(self.num_features, name="fourier")(noise_label)
        return MPConv(1, dtype=str(noise_label.dtype), name="linear")(features)[:, 0]
