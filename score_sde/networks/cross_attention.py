"""Attention from the positions of an image or signal to the tokens of a condition."""

import math

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from score_sde.networks.attention import attend, features_of_a_head
from score_sde.networks.layers import GroupNorm, dense


class CrossAttentionBlock(nn.Module):
    """y = (x + W softmax(q kᵀ / √d) v) / √2, with q linear in the group-normalized x, and k, v linear in the tokens.

    Each head sees all tokens that are present. Without `skip_rescale` the sum is not divided by √2.
    The map W starts near zero.

    Source: Rombach et al., arXiv 2112.10752, Sec. 3.3, in the form of `AttentionBlock`.
    """

    skip_rescale: bool = True
    dtype: str = "float32"
    groups: int | None = None
    num_heads: int = 1
    attention: str = "plain"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b *space c"],
        tokens: Float[Array, "b tokens width"],
        mask: Bool[Array, "b tokens"],
    ) -> Float[Array, "b *space c"]:
        batch, channels = x.shape[0], x.shape[-1]
        d = features_of_a_head(channels, self.num_heads)
        h = GroupNorm(dtype=self.dtype, groups=self.groups, name="norm")(x).reshape(batch, -1, channels)
        k, v = jnp.split(dense(2 * channels, self.dtype, "kv")(tokens), 2, axis=-1)
        q, k, v = (y.reshape(batch, -1, self.num_heads, d) for y in (dense(channels, self.dtype, "q")(h), k, v))
        h = dense(channels, self.dtype, "out", scale=0.0)(attend(q, k, v, mask, self.attention).reshape(h.shape))
        y = x + h.reshape(x.shape)
        return y / math.sqrt(2) if self.skip_rescale else y
