"""The layers that the transformers share: the MLP of a token, blocks, and the embedding of noise level and conditions.

Tokens are [b, tokens, width], and `emb` is one vector for each example.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from score_sde.networks.attention import Attention
from score_sde.networks.conditions import Condition, Conditions, Given, frozen_kinds
from score_sde.networks.layers import Dropout, TokenNorm, dense, wide
from score_sde.networks.positions import PERIOD, Rotation
from score_sde.networks.remat import kept

MLPS = ("gelu", "exact_gelu", "swiglu")
NORMS = ("layer", "rms")
NOISE_FEATURES = 256  # as many sines and cosines of the noise label as in DiT

Tokens = Float[Array, "b tokens width"]
Mask = Bool[Array, "b keys"]
normal_002, zeros = nn.initializers.normal(0.02), nn.initializers.zeros_init()


def cosines(
    noise_label: Float[Array, " b"], num_features: int, dtype: str = "float32", *, reaches_end: bool = False
) -> Float[Array, "b num_features"]:
    """[cos(ω c), sin(ω c)] with ω falling geometrically from 1, for labels that run over 0 … 1000.

    The frequencies are ω_i = 1e4^(−i / n), with n the number of frequencies. `reaches_end` makes
    n one less, so the last frequency is 1e-4.

    Source: DiT, arXiv 2212.09748, in the code. With `reaches_end`, diffusers' form of DiT.
    """
    half = num_features // 2
    omega = PERIOD ** (-np.arange(half, dtype=np.float64) / (half - reaches_end))
    angle = noise_label.astype(wide(dtype))[:, None] * jnp.asarray(omega, wide(dtype))[None]
    features = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    return jnp.pad(features, ((0, 0), (0, num_features % 2)))


class Feedforward(nn.Module):
    """y = W₁ a(W₀ x + b₀) + b₁ for each token. "swiglu": y = W₁ (silu(V x + c) ⊙ (W₀ x + b₀)) + b₁.

    Attributes:
      features: the number of hidden features.
      kind: a: "gelu" (with the tanh of DiT), "exact_gelu" or "swiglu".
      dropout: the dropout rate of the hidden features.
      kernel_init: draws the matrices. None is the rule of the other layers.
      dtype: the type of the computation.

    Source: "swiglu" is arXiv 2002.05202, Eq. 6, with biases.
    """

    features: int
    kind: str = "gelu"
    dropout: float = 0.0
    kernel_init: Callable[..., Array] | None = None
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Tokens, *, train: bool = False) -> Tokens:
        layer = functools.partial(dense, dtype=self.dtype, init=self.kernel_init)
        width = x.shape[-1]
        # V and W₀ count as one matrix for their first values, as in JiT.
        scale = (width + self.features) / (width + 2 * self.features) if self.kind == "swiglu" else 1.0
        h = layer(self.features, name="in", scale=scale)(x)
        if self.kind == "swiglu":
            h = nn.silu(layer(self.features, name="gate", scale=scale)(x)) * h
        else:
            h = nn.gelu(h, approximate=self.kind == "gelu")
        h = Dropout(self.dropout)(h, deterministic=not train)
        return layer(width, name="out")(h)


def hidden_features(width: int, mlp_ratio: float, kind: str) -> int:
    """mlp_ratio · width, or two thirds of it for "swiglu", which has three matrices instead of two."""
    features = int(width * mlp_ratio)
    return features * 2 // 3 if kind == "swiglu" else features


def modulate(x: Tokens, shift: Float[Array, "b width"], scale: Float[Array, "b width"]) -> Tokens:
    """x ⊙ (1 + scale) + shift, with one scale and shift for all tokens of an example."""
    return x * (1 + scale[:, None]) + shift[:, None]


class AdaLNBlock(nn.Module):
    """x ← x + g₁ ⊙ attention(m₁(x)), x ← x + g₂ ⊙ mlp(m₂(x)), with mᵢ(x) = norm(x) ⊙ (1 + sᵢ) + bᵢ.

    The shifts b, scales s and gates g are linear in `emb`. At first they are zero, so the block is
    the identity ("adaLN-zero"). Tokens of a condition enter by cross-attention between the two,
    whose last map is zero at first.

    Attributes:
      num_heads: the number of heads.
      mlp_features: the number of hidden features of the MLP.
      mlp: the kind of the MLP, as in `Feedforward`.
      norm: "layer" or "rms". "rms" has a learned scale, and "layer" has none.
      mlp_epsilon: ε of the norm before the MLP.
      qk_norm: the norm of queries and keys, as in `Attention`.
      dropout: the dropout rate of the attention's output and of the MLP.
      attention: "plain" or "fused".
      dtype: the type of the computation.

    Source: DiT, arXiv 2212.09748, Sec. 3.2. The cross-attention stands where PixArt-α's does,
      arXiv 2310.00426.
    """

    num_heads: int
    mlp_features: int
    mlp: str = "gelu"
    norm: str = "layer"
    mlp_epsilon: float = 1e-6
    qk_norm: str = "none"
    dropout: float = 0.0
    attention: str = "plain"
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        x: Tokens,
        emb: Float[Array, "b width"],
        mask: Mask | None = None,
        rotation: Rotation | None = None,
        context: Float[Array, "b context width"] | None = None,
        context_mask: Bool[Array, "b context"] | None = None,
        train: bool = False,
    ) -> Tokens:
        """A `mask` tells the tokens of x that count. `emb` comes after its swish."""
        width = x.shape[-1]
        parts = dense(6 * width, self.dtype, "modulation", init=zeros)(emb)
        shift_0, scale_0, gate_0, shift_1, scale_1, gate_1 = jnp.split(parts, 6, axis=-1)
        norm = functools.partial(TokenNorm, self.norm, self.norm == "rms", dtype=self.dtype)
        attention = functools.partial(
            Attention, self.num_heads, qk_norm=self.qk_norm, attention=self.attention, dtype=self.dtype
        )
        h = attention(name="attention")(modulate(norm(name="norm_0")(x), shift_0, scale_0), None, mask, rotation)
        x = x + gate_0[:, None] * Dropout(self.dropout)(h, deterministic=not train)
        if context is not None:
            h = norm(name="cross_norm")(x)
            x = x + attention(name="cross_attention", out_init=zeros)(h, context, context_mask)
        h = modulate(norm(name="norm_1", epsilon=self.mlp_epsilon)(x), shift_1, scale_1)
        h = Feedforward(self.mlp_features, self.mlp, self.dropout, dtype=self.dtype, name="mlp")(h, train=train)
        return x + gate_1[:, None] * h


class AdaLNOutput(nn.Module):
    """y = W (norm(x) ⊙ (1 + s) + b), with s and b linear in `emb`. All matrices are zero at first."""

    features: int
    norm: str = "layer"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Tokens, emb: Float[Array, "b width"]) -> Float[Array, "b tokens features"]:
        shift, scale = jnp.split(dense(2 * x.shape[-1], self.dtype, "modulation", init=zeros)(emb), 2, axis=-1)
        h = modulate(TokenNorm(self.norm, self.norm == "rms", dtype=self.dtype, name="norm")(x), shift, scale)
        return dense(self.features, wide(self.dtype), "linear", init=zeros)(h)


class NoiseAndConditions(nn.Module):
    """emb = W₁ swish(W₀ cosines(c) + b₀) + b₁ + the vectors of the conditions, `[b, width]`.

    It returns emb, and the conditions in the form in which the other layers use them.

    Attributes:
      width: the length of emb and of each token of a condition.
      num_features: the number of sines and cosines.
      reaches_end: whether their last frequency is 1e-4.
      num_classes: the number of classes of the condition "label", 0 for none.
      embedding_dim: the width of the condition "embedding", 0 for none.
      conditions: the kinds of further conditions by name.
      null_token: whether a learned token comes before the tokens of a condition.
      dtype: the type of the computation.

    Source: DiT, arXiv 2212.09748, in the code.
    """

    width: int
    num_features: int = NOISE_FEATURES
    reaches_end: bool = False
    num_classes: int | None = 0
    embedding_dim: int | None = 0
    conditions: Mapping[str, str] | None = None
    null_token: bool = True
    dtype: str = "float32"

    def __post_init__(self) -> None:
        object.__setattr__(self, "conditions", frozen_kinds(self.conditions))
        super().__post_init__()

    @nn.compact
    def __call__(
        self, noise_label: Float[Array, " b"], condition: Condition | None, x: Float[Array, "b *shape"]
    ) -> tuple[Float[Array, "b width"], Given]:
        features = cosines(noise_label, self.num_features, self.dtype, reaches_end=self.reaches_end)
        h = nn.swish(dense(self.width, self.dtype, "dense_0", init=normal_002)(features))
        h = dense(self.width, self.dtype, "dense_1", init=normal_002)(h)
        conditions = Conditions(
            width=self.width,
            token_width=self.width,
            num_classes=self.num_classes or 0,
            embedding_dim=self.embedding_dim or 0,
            kinds=self.conditions,
            null_token=self.null_token,
            label_std=0.02,
            dtype=self.dtype,
        )
        nn.share_scope(self, conditions)
        given = conditions(condition, x)
        return (h.astype(wide(self.dtype)) + vector_of(given, self.width)).astype(self.dtype), given


def vector_of(given: Given, width: int) -> Array:
    """The sum of the vectors of the conditions, or zeros."""
    return functools.reduce(jnp.add, given.vectors) if given.vectors else jnp.zeros((1, width))


def mask_of(given: Given, before: int, patches: Tokens) -> Bool[Array, "b keys"] | None:
    """Which tokens count in the sequence of `before` others, the tokens of the conditions, and the patches.

    None without tokens of conditions: then all count.
    """
    if given.mask is None:
        return None
    ones = jnp.ones((len(patches), before), bool), jnp.ones(patches.shape[:2], bool)
    return jnp.concatenate([ones[0], given.mask, ones[1]], axis=1)


def transformer_axis(path: tuple[str, ...]) -> int | None:
    """The axis of a parameter of a transformer that is divided among devices, by its names inside the network.

    The heads of attention and the hidden features of the MLP are divided: columns of the first
    matrices, rows of the last. So a block needs two sums over devices. Of the modulation, columns
    are divided.

    Source: Shoeybi et al., arXiv 1909.08053, Sec. 3.
    """
    if len(path) < 2 or not any(name.startswith("block_") for name in path):
        return None
    layer, array = path[-2:]
    inside_mlp = "mlp" in path
    if layer in ("query", "key", "value", "modulation") or (inside_mlp and layer in ("in", "gate")):
        return {"kernel": 1, "bias": 0}[array]
    return 0 if layer == "out" and array == "kernel" else None


def remat_block(block: Any, remat: str, train_at: int | None = None) -> Any:
    """The block class, with the recomputation that `remat` names. `train_at` is the place of the argument train."""
    static = () if train_at is None else (train_at,)
    if remat == "none":
        return block
    return nn.remat(block, policy=kept(remat), static_argnums=static)


def pixels_out(x: Array, out_channels: int | None, patch_size: int) -> int:
    """The number of features that a token of the output needs."""
    return math.prod((patch_size,) * (x.ndim - 2)) * (out_channels or x.shape[-1])
