"""The blocks of a U-Net: the residual block, and DDPM's change of resolution by one convolution."""

import math

from flax import linen as nn
from jaxtyping import Array, Float

from score_sde.networks.layers import Dropout, GroupNorm, conv, dense
from score_sde.networks.resample import Taps, blur, downsample, pad, upsample

RESAMPLE = {"none": lambda x, taps: x, "down": downsample, "up": upsample}


class ResidualBlock(nn.Module):
    """y = (S r(x) + W₁ ⋆ dropout(a(W₀ ⋆ r(a(x)) + A emb))) / √2, a = swish ∘ group norm, r = resampling or nothing.

    The order is BigGAN's: both branches are resampled, the main branch between its activation and
    its first convolution. S is a 1×1 convolution where the shape changes, and the identity
    elsewhere. W₁ starts near zero. Without `skip_rescale` the sum is not divided by √2. `emb` is
    the embedding of `embeddings.Embedding`, which ends with a swish.

    Source: Brock et al., arXiv 1809.11096; score_sde, arXiv 2011.13456, App. H.
    """

    features: int
    resample: str = "none"
    taps: Taps = (1, 1)
    dropout: float = 0.0
    skip_rescale: bool = True
    dtype: str = "float32"
    groups: int | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b *space c"], emb: Float[Array, "b e"], train: bool = False
    ) -> Float[Array, "b *new_space features"]:
        rank, resample = x.ndim - 2, RESAMPLE[self.resample]
        h = GroupNorm(nn.swish, dtype=self.dtype, groups=self.groups, name="norm_0")(x)
        h = conv(self.features, rank, self.dtype, "conv_0")(resample(h, self.taps))
        shift = dense(self.features, self.dtype, "embedding")(emb)
        h = h + shift.reshape(shift.shape[:1] + (1,) * rank + shift.shape[1:])
        h = GroupNorm(nn.swish, dtype=self.dtype, groups=self.groups, name="norm_1")(h)
        h = Dropout(self.dropout)(h, deterministic=not train)
        h = conv(self.features, rank, self.dtype, "conv_1", scale=0.0)(h)
        if self.resample != "none" or x.shape[-1] != self.features:
            x = dense(self.features, self.dtype, "skip")(resample(x, self.taps))
        return (x + h) / math.sqrt(2) if self.skip_rescale else x + h


class ResamplingConvolution(nn.Module):
    """y = W ⋆ f(x) at half ("down") or double ("up") the resolution, as in DDPM. W is 3 wide along every axis.

    Up: f is `upsample`. Down: W has a stride of 2, and f is `blur`. With two equal `taps`, f
    instead adds a zero at the far end of every axis.

    Source: DDPM, arXiv 2006.11239; with a filter score_sde, arXiv 2011.13456, App. H. One
      difference: where the resolution doubles, this code filters, then convolves with zeros beyond
      the border. The score_sde code transposes a convolution, then filters.
    """

    resample: str
    taps: Taps = (1, 1)
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"]) -> Float[Array, "b *new_space c"]:
        rank, stride = x.ndim - 2, 2 if self.resample == "down" else 1
        if self.resample == "up":
            x = upsample(x, self.taps)
        elif len(self.taps) == 2 and self.taps[0] == self.taps[1]:
            for axis in range(1, rank + 1):
                x = pad(x, axis, 0, 1)
        else:
            x = blur(x, self.taps, 3)
        return conv(x.shape[-1], rank, self.dtype, "conv", stride=stride)(x)
