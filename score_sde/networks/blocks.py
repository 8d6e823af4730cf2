"""The blocks of a U-Net: the residual block, and DDPM's change of resolution by one convolution."""

import functools
import math
from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from score_sde.networks.layers import Dropout, GroupNorm, conv, dense
from score_sde.networks.resample import Taps, blur, downsample, pad, upsample

RESAMPLE = {"none": lambda x, taps: x, "down": downsample, "up": upsample}
NONLINEARITIES: dict[str, Callable[[Array], Array]] = {
    "swish": nn.swish,
    "relu": nn.relu,
    "elu": nn.elu,
    "leaky_relu": functools.partial(nn.leaky_relu, negative_slope=0.2),
}


class ResidualBlock(nn.Module):
    """y = (S r(x) + W₁ ⋆ dropout(a(W₀ ⋆ r(a(x)) + A emb))) / √2, a = swish ∘ group norm, r = resampling or nothing.

    The order is BigGAN's: both branches are resampled, the main branch between its activation and
    its first convolution. S is a 1×1 convolution where the shape changes, and the identity
    elsewhere. W₁ starts near zero. `emb` is the embedding of `embeddings.Embedding`, which ends
    with a swish. None leaves it out.

    Attributes:
      skip_rescale: whether the sum is divided by √2.
      scale_shift: whether the embedding acts after the second norm n, as swish((1 + A₁ emb) n(h) +
        A₂ emb). This is ADM's adaptive group norm.
      skip_projection: whether S is a 1×1 convolution also where only the resolution changes.
      nonlinearity: a key of NONLINEARITIES in place of swish.

    Source: Brock et al., arXiv 1809.11096; score_sde, arXiv 2011.13456, App. H; Dhariwal and
      Nichol, arXiv 2105.05233, Eq. 3.
    """

    features: int
    resample: str = "none"
    taps: Taps = (1, 1)
    dropout: float = 0.0
    skip_rescale: bool = True
    dtype: str = "float32"
    groups: int | None = None
    scale_shift: bool = False
    skip_projection: bool = True
    epsilon: float = 1e-6
    nonlinearity: str = "swish"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b *space c"], emb: Float[Array, "b e"] | None, train: bool = False
    ) -> Float[Array, "b *new_space features"]:
        rank, resample, act = x.ndim - 2, RESAMPLE[self.resample], NONLINEARITIES[self.nonlinearity]
        h = self._norm(act, "norm_0")(x)
        h = conv(self.features, rank, self.dtype, "conv_0")(resample(h, self.taps))
        h = self._modulated(h, emb, act)
        h = Dropout(self.dropout)(h, deterministic=not train)
        h = conv(self.features, rank, self.dtype, "conv_1", scale=0.0)(h)
        x = resample(x, self.taps)
        if x.shape[-1] != self.features or (self.resample != "none" and self.skip_projection):
            x = dense(self.features, self.dtype, "skip")(x)
        return (x + h) / math.sqrt(2) if self.skip_rescale else x + h

    def _modulated(self, h: Array, emb: Array | None, act: Callable[[Array], Array]) -> Array:
        """The second norm and activation, with the embedding added before the norm or acting after it."""
        if emb is None:
            return self._norm(act, "norm_1")(h)
        width = (2 if self.scale_shift else 1) * self.features
        a = dense(width, self.dtype, "embedding")(emb)
        a = a.reshape(a.shape[0], *(1,) * (h.ndim - 2), width)
        if not self.scale_shift:
            return self._norm(act, "norm_1")(h + a)
        scale, shift = jnp.split(a, 2, axis=-1)
        return act(self._norm(None, "norm_1")(h) * (1 + scale) + shift)

    def _norm(self, act: Callable[[Array], Array] | None, name: str) -> GroupNorm:
        return GroupNorm(act, self.epsilon, self.dtype, self.groups, name=name)


class ResamplingConvolution(nn.Module):
    """y = W ⋆ f(x) at half ("down") or double ("up") the resolution, as in DDPM. W is 3 wide along every axis.

    f is `before_halving` or `before_doubling`, and W has a stride of 2 on the way down.

    Source: DDPM, arXiv 2006.11239; with a filter score_sde, arXiv 2011.13456, App. H.
    """

    resample: str
    taps: Taps = (1, 1)
    dtype: str = "float32"
    padding: str = "end"

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"]) -> Float[Array, "b *new_space c"]:
        channels, rank = x.shape[-1], x.ndim - 2
        if self.resample == "down":
            return conv(channels, rank, self.dtype, "conv", stride=2)(before_halving(x, self.taps, self.padding))
        x, padding = before_doubling(x, self.taps)
        return conv(channels, rank, self.dtype, "conv", padding=padding)(x)


def before_halving(x: Float[Array, "b *space c"], taps: Taps, padding: str = "end") -> Float[Array, "b *new_space c"]:
    """The input of a convolution, 3 wide and with a stride of 2, that halves the resolution.

    With two equal `taps` there is no filter, only zeros at the far end of every axis, or at "both"
    ends. With others it is `blur`.
    """
    if not is_plain(taps):
        return blur(x, taps, 3)
    for axis in range(1, x.ndim - 1):
        x = pad(x, axis, int(padding == "both"), 1)
    return x


def before_doubling(x: Float[Array, "b *space c"], taps: Taps) -> tuple[Float[Array, "b *new_space c"], str]:
    """(x upsampled, the padding of the convolution, 3 wide, that follows).

    The convolution reads one more place at each border. There the filter's response lies beyond the
    image, as where a transposed convolution comes before the filter. With two equal `taps` the
    response is 0 there, and the convolution adds the zeros.
    """
    if is_plain(taps):
        return upsample(x, taps), "SAME"
    for axis in range(1, x.ndim - 1):
        x = pad(x, axis, 1, 1)
    x = upsample(x, taps)
    inside = (slice(None), *(slice(1, -1),) * (x.ndim - 2))
    return x[inside], "VALID"


def is_plain(taps: Taps) -> bool:
    """Whether the filter is the mean of two, or the nearest neighbour."""
    return len(taps) == 2 and taps[0] == taps[1]
