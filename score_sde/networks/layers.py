"""The layers that every network here is made of: dense maps, convolutions, norms and dropout.

Dense maps and convolutions start as in DDPM. All layers have float32 parameters and compute in the
given `dtype`. No layer fixes the number of spatial axes, so images [b, h, w, c] and signals [b, l,
c] share one code.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from score_sde.networks.kernels.winograd import conv_general_dilated

NEAR_ZERO = 1e-10  # the 2021 code replaces a scale of 0 by this, so that no layer is exactly zero at the start


def fan_avg_uniform(scale: float = 1.0) -> Callable[..., Array]:
    """Draws weights from U(−a, a) with a² = 6 scale / (fan_in + fan_out). A scale of 0 is read as 1e-10.

    Source: DDPM, arXiv 2006.11239, and score_sde, arXiv 2011.13456 (both in the code only).
    """
    return nn.initializers.variance_scaling(scale or NEAR_ZERO, "fan_avg", "uniform")


def wide(dtype: Any) -> str:
    """The type of statistics, softmax and outputs: float64 for a computation in float64, float32 for any other."""
    return "float64" if jnp.dtype(dtype) == jnp.float64 else "float32"


def dense(
    features: int,
    dtype: str,
    name: str,
    *,
    scale: float = 1.0,
    use_bias: bool = True,
    init: Callable[..., Array] | None = None,
) -> nn.Dense:
    """y = x W + b over the last axis.

    It also replaces a 1×1 convolution: a matrix product is the fastest form of that convolution.
    `init` draws W. None is `fan_avg_uniform(scale)`.
    """
    init = init or fan_avg_uniform(scale)
    return nn.Dense(features, use_bias, dtype=dtype, kernel_init=init, dot_general=_flat_product, name=name)


def _flat_product(x: Array, kernel: Array, dimension_numbers: Any, precision: Any = None, **options: Any) -> Array:
    """x W, with all axes of x but the last merged into one.

    XLA then computes the gradient of W without a transpose of the inputs first. This saves 5 % of a
    U-Net's training step on a CPU. nn.Dense takes its product as an argument.
    """
    rows = x.reshape(-1, x.shape[-1])
    product = jax.lax.dot_general(rows, kernel, (((1,), (0,)), ((), ())), precision, **options)
    return product.reshape(*x.shape[:-1], kernel.shape[-1])


def conv(
    features: int,
    rank: int,
    dtype: str,
    name: str | None,
    *,
    scale: float = 1.0,
    stride: int = 1,
    padding: str | None = None,
) -> nn.Conv:
    """y = W ⋆ x + b with a kernel 3 wide along each of `rank` spatial axes, and zeros beyond the border.

    With a stride above 1, or the padding "VALID", nothing is added at the border, because the
    resampling filter has padded x.
    """
    padding = padding or ("SAME" if stride == 1 else "VALID")
    init = fan_avg_uniform(scale)
    return nn.Conv(
        features,
        (3,) * rank,
        stride,
        padding,
        dtype=dtype,
        kernel_init=init,
        conv_general_dilated=conv_general_dilated,
        name=name,
    )


def num_groups(channels: int) -> int:
    """The largest divisor of `channels` that is at most 32 and leaves at least 4 channels a group.

    It is 1 if there is no such divisor. Where min(32, channels / 4) divides the channels, this is
    the published rule. Elsewhere the published rule has no answer.
    """
    limit = max(1, min(32, channels // 4))
    return max(groups for groups in range(1, limit + 1) if channels % groups == 0)


class GroupNorm(nn.Module):
    """y = activation((x − mean) / √(var + 1e-6) · scale + bias), with mean and var over a group of channels and space.

    The sums run first over space for each channel, then over the channels of a group. The
    normalization is one multiplication and one addition per element. So the large array is never
    reshaped, and one pass over it gives both moments. The moments are in float32.

    Attributes:
      groups: the number of groups. None is `num_groups` of the channels.

    Source: arXiv 1803.08494; epsilon and groups as in score_sde, arXiv 2011.13456.
    """

    activation: Callable[[Array], Array] | None = None
    epsilon: float = 1e-6
    dtype: str = "float32"
    groups: int | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"]) -> Float[Array, "b *space c"]:
        batch, channels = x.shape[0], x.shape[-1]
        scale = self.param("scale", nn.initializers.ones_init(), (channels,))
        bias = self.param("bias", nn.initializers.zeros_init(), (channels,))
        x32 = x.astype(wide(self.dtype))
        space = tuple(range(1, x.ndim - 1))
        mean, square = self._group_mean(x32.mean(space)), self._group_mean(jnp.square(x32).mean(space))
        # Where a group is constant, rounding can make the difference negative.
        rate = jax.lax.rsqrt(jnp.maximum(square - jnp.square(mean), 0.0) + self.epsilon)
        gain = scale[None].astype(rate.dtype) * rate
        shift = bias[None].astype(rate.dtype) - mean * gain
        per_example = (batch,) + (1,) * len(space) + (channels,)
        y = x32 * gain.reshape(per_example) + shift.reshape(per_example)
        return (y if self.activation is None else self.activation(y)).astype(self.dtype)

    def _group_mean(self, per_channel: Float[Array, "b c"]) -> Float[Array, "b c"]:
        """The mean over its group, in place of each channel's value."""
        batch, channels = per_channel.shape
        groups = num_groups(channels) if self.groups is None else self.groups
        mean = per_channel.reshape(batch, groups, channels // groups).mean(axis=2)
        return jnp.repeat(mean, channels // groups, axis=1)


class TokenNorm(nn.Module):
    """Normalizes the features of each token: y = (x − mean) / √(var + ε) · scale + bias.

    The kind "rms" has no mean and no bias: y = x / √(mean x² + ε) · scale. The moments are in
    float32.

    Attributes:
      kind: "layer" or "rms".
      affine: whether there are a scale and, for "layer", a bias.
      epsilon: ε.
      dtype: the type of the output.

    Source: arXiv 1607.06450 ("layer") and 1910.07467 ("rms").
    """

    kind: str = "layer"
    affine: bool = True
    epsilon: float = 1e-6
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        h = x.astype(wide(self.dtype))
        if self.kind == "layer":
            h = h - h.mean(axis=-1, keepdims=True)
        y = h * jax.lax.rsqrt(jnp.square(h).mean(axis=-1, keepdims=True) + self.epsilon)
        like = (1,) * (x.ndim - 1) + x.shape[-1:]
        if self.affine:
            y = y * self.param("scale", nn.initializers.ones_init(), x.shape[-1:]).astype(h.dtype).reshape(like)
        if self.affine and self.kind == "layer":
            y = y + self.param("bias", nn.initializers.zeros_init(), x.shape[-1:]).astype(h.dtype).reshape(like)
        return y.astype(self.dtype)


class Dropout(nn.Module):
    """y = m x / (1 − p), with m = 0 at a fraction p = `rate` < 1 of the places and 1 at the others.

    Each call draws m anew. p is rounded to a multiple of 2⁻¹⁶, and m is divided by the fraction
    that this keeps. Two places then share 32 random bits, instead of 32 bits for each place.
    Dropout is 5 % of a U-Net's training step on a CPU, and this halves it.

    Source: Srivastava et al., JMLR 15 (2014).
    """

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "*b c"], *, deterministic: bool) -> Float[Array, "*b c"]:
        dropped = min(round(self.rate * 2**16), 2**16 - 1)
        if deterministic or not dropped:
            return x
        channels = x.shape[-1]
        pairs = jax.random.bits(self.make_rng("dropout"), (*x.shape[:-1], -(-channels // 2)), jnp.uint32)
        halves = jax.lax.bitcast_convert_type(pairs, jnp.uint16).reshape(*x.shape[:-1], -1)[..., :channels]
        return jnp.where(halves >= dropped, x * jnp.asarray(2**16 / (2**16 - dropped), x.dtype), jnp.zeros_like(x))
