"""Self-attention over all positions of an image or signal."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from score_sde.networks.layers import GroupNorm, dense


class AttentionBlock(nn.Module):
    """y = (x + W softmax(q kᵀ / √c) v) / √2, with q, k, v linear in the group-normalized x.

    There is one head over all positions. Without `skip_rescale` the sum is not divided by √2. The
    softmax is in float32. The map W starts near zero.

    Source: DDPM, arXiv 2006.11239; the rescaled sum is score_sde's, arXiv 2011.13456, App. H.
    """

    skip_rescale: bool = True
    dtype: str = "float32"
    groups: int | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"]) -> Float[Array, "b *space c"]:
        batch, channels = x.shape[0], x.shape[-1]
        h = GroupNorm(dtype=self.dtype, groups=self.groups, name="norm")(x).reshape(batch, -1, channels)
        q, k, v = jnp.split(dense(3 * channels, self.dtype, "qkv")(h), 3, axis=-1)
        logits = jnp.einsum("bqc,bkc->bqk", q, k, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(logits / math.sqrt(channels)).astype(v.dtype)
        h = dense(channels, self.dtype, "out", scale=0.0)(jnp.einsum("bqk,bkc->bqc", weights, v))
        y = x + h.reshape(x.shape)
        return y / math.sqrt(2) if self.skip_rescale else y
