"""Attention with any number of heads: the product itself, a layer for tokens, and the block of a U-Net.

Queries, keys and values are [b, tokens, heads, features of a head]. A mask is [b, tokens of the
keys], with True for the tokens that count.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from score_sde.internal.layers import AttentionMap
from score_sde.networks.layers import GroupNorm, TokenNorm, dense, wide
from score_sde.networks.positions import Rotation, rotate

ATTENTION = ("plain", "fused")
QK_NORMS = ("none", "layer", "rms")

Heads = Float[Array, "b tokens heads d"]
KeyMask = Bool[Array, "b keys"]


def attend(
    q: Float[Array, "b queries heads d"],
    k: Float[Array, "b keys heads d"],
    v: Float[Array, "b keys heads e"],
    mask: KeyMask | None = None,
    attention: str = "plain",
) -> Float[Array, "b queries heads e"]:
    """softmax(q kᵀ / √d) v for each head.

    "plain" computes the map of all pairs, in ordinary operations. It can be differentiated in both
    modes. "fused" is cuDNN's kernel, which never stores the map. It has no forward mode, so
    Jacobian-vector products need "plain". Where the kernel cannot be used, "fused" is "plain":
    on anything but an NVIDIA GPU, in float32, or with features of a head that are no multiple of 8
    up to 128. Where guidance replaces or reads the map, "fused" is "plain" too. So a layer that calls
    this function needs `nn.compact`.

    Source: Vaswani et al., arXiv 1706.03762, Eq. 1.
    """
    hook = AttentionMap()
    if attention == "fused" and not hook.is_wanted() and _fits_cudnn(q, k, v, mask):
        # Without a name, JAX takes its own form of "plain" on every machine.
        pairs = None if mask is None else mask[:, None, None, :]
        return jax.nn.dot_product_attention(q, k, v, mask=pairs, implementation="cudnn")
    return apply_map(hook(attention_map(q, k, mask)), v)


def attention_map(
    q: Float[Array, "b queries heads d"], k: Float[Array, "b keys heads d"], mask: KeyMask | None = None
) -> Float[Array, "b heads queries keys"]:
    """softmax(q kᵀ / √d) over the keys, in float32 or the wider type of q."""
    product = _product if q.dtype == jnp.dtype(wide(q.dtype)) else _half_product
    logits = product(q, k) / math.sqrt(q.shape[-1])
    if mask is not None:
        # A finite number, so that a row without any key is uniform instead of NaN.
        logits = jnp.where(mask[:, None, None, :], logits, jnp.finfo(logits.dtype).min)
    return jax.nn.softmax(logits)


def _product(q: Float[Array, "b queries heads d"], k: Float[Array, "b keys heads d"]) -> Array:
    return jnp.einsum("bqhd,bkhd->bhqk", q, k)


@jax.custom_jvp
def _half_product(q: Float[Array, "b queries heads d"], k: Float[Array, "b keys heads d"]) -> Array:
    """q kᵀ of arrays in half precision, with sums and result in float32.

    By itself, JAX multiplies the float32 gradient of the result with q and k, and so computes the
    gradients of attention in float32, at a fraction of the speed. The rule below rounds it first.
    """
    return jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32)


@_half_product.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (q, k), (dq, dk) = primals, tangents
    return _half_product(q, k), (_product(dq, k) + _product(q, dk)).astype(jnp.float32)


def apply_map(
    weights: Float[Array, "b heads queries keys"], v: Float[Array, "b keys heads e"]
) -> Float[Array, "b queries heads e"]:
    """Σₖ weights v, for each head and query."""
    return jnp.einsum("bhqk,bkhe->bqhe", weights.astype(v.dtype), v)


def features_of_a_head(features: int, num_heads: int) -> int:
    """features / num_heads.

    Raises: ValueError unless num_heads divides the features.
    """
    if num_heads < 1 or features % num_heads:
        raise ValueError(f"Attention needs num_heads that divides its {features} features, got {num_heads}.")
    return features // num_heads


def _fits_cudnn(q: Array, k: Array, v: Array, mask: Array | None) -> bool:
    """Whether cuDNN has a kernel for these arrays on this machine.

    The limits hold for the oldest GPUs that the kernel runs on. A mask needs even numbers of
    tokens, in the gradient.
    """
    sizes_fit = q.shape[-1] == v.shape[-1] <= 128 and q.shape[-1] % 8 == 0
    lengths_fit = mask is None or (q.shape[1] % 2 == 0 and k.shape[1] % 2 == 0)
    return _is_cuda() and q.dtype in (jnp.bfloat16, jnp.float16) and sizes_fit and lengths_fit


def _is_cuda() -> bool:
    """Whether programs of this process run on NVIDIA GPUs."""
    return jax.default_backend() == "gpu" and "cuda" in jax.local_devices()[0].client.platform_version


class Attention(nn.Module):
    """y = W softmax(q kᵀ / √d) v + b, with q linear in the tokens x, and k, v linear in x or in other tokens.

    Attributes:
      num_heads: the number of heads.
      head_features: d, the number of features of a head. None divides the features of x.
      use_bias: whether q, k and v have a bias. W always has one.
      qk_norm: the norm of each head's q and k: "none", "layer" or "rms" (arXiv 2010.04245 and
        2302.05442).
      attention: "plain" or "fused", as in `attend`.
      kernel_init: draws the matrices. None is the rule of the other layers. Query, key and value count as
        one matrix for it, as in the published transformers.
      out_init: draws W. None is as kernel_init.
      dtype: the type of the computation.

    Source: Vaswani et al., arXiv 1706.03762, Sec. 3.2.
    """

    num_heads: int
    head_features: int | None = None
    use_bias: bool = True
    qk_norm: str = "none"
    attention: str = "plain"
    kernel_init: Callable[..., Array] | None = None
    out_init: Callable[..., Array] | None = None
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b tokens c"],
        context: Float[Array, "b keys e"] | None = None,
        mask: KeyMask | None = None,
        rotation: Rotation | None = None,
    ) -> Float[Array, "b tokens c"]:
        """Self-attention. With a `context`, cross-attention to its tokens.

        Args:
          mask: the keys that count. None is all.
          rotation: turns q and k by their positions, after the norm.
        """
        width, source = x.shape[-1], x if context is None else context
        q = self._heads(x, "query", width)
        k, v = (self._heads(source, name, width) for name in ("key", "value"))
        if self.qk_norm != "none":
            q = TokenNorm(self.qk_norm, dtype=self.dtype, name="query_norm")(q)
            k = TokenNorm(self.qk_norm, dtype=self.dtype, name="key_norm")(k)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        h = attend(q, k, v, mask, self.attention)
        return dense(width, self.dtype, "out", init=self.out_init or self.kernel_init)(h.reshape(*x.shape[:-1], -1))

    def _heads(self, x: Array, name: str, width: int) -> Heads:
        d = self.head_features or features_of_a_head(width, self.num_heads)
        # One matrix for all three has the fans c and 3c, so twice the mean fan.
        y = dense(self.num_heads * d, self.dtype, name, scale=0.5, use_bias=self.use_bias, init=self.kernel_init)(x)
        return y.reshape(*x.shape[:-1], self.num_heads, d)


class AttentionBlock(nn.Module):
    """y = (x + W softmax(q kᵀ / √d) v) / √2, with q, k, v linear in the group-normalized x.

    Each of the heads sees all positions. Without `skip_rescale` the sum is not divided by √2. The
    softmax is in float32. The map W starts near zero.

    Attributes:
      num_heads: the number of heads. d is the number of channels, divided by it.
      attention: "plain" or "fused", as in `attend`.

    Source: DDPM, arXiv 2006.11239, with one head; the rescaled sum is score_sde's, arXiv
      2011.13456, App. H.
    """

    skip_rescale: bool = True
    dtype: str = "float32"
    groups: int | None = None
    num_heads: int = 1
    attention: str = "plain"
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"]) -> Float[Array, "b *space c"]:
        batch, channels = x.shape[0], x.shape[-1]
        d = features_of_a_head(channels, self.num_heads)
        h = GroupNorm(None, self.epsilon, self.dtype, self.groups, name="norm")(x).reshape(batch, -1, channels)
        q, k, v = jnp.split(dense(3 * channels, self.dtype, "qkv")(h), 3, axis=-1)
        q, k, v = (y.reshape(batch, -1, self.num_heads, d) for y in (q, k, v))
        h = dense(channels, self.dtype, "out", scale=0.0)(attend(q, k, v, None, self.attention).reshape(h.shape))
        y = x + h.reshape(x.shape)
        return y / math.sqrt(2) if self.skip_rescale else y
