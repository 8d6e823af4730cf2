"""The U-Net of Stable Diffusion, whose levels attend to the tokens of a text.

Levels are numbered as in `UNet`. They have their own numbers of features, heads and transformer
layers, and attention by level and not by height.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from score_sde.networks.attention import Attention
from score_sde.networks.blocks import ResamplingConvolution, ResidualBlock
from score_sde.networks.conditions import null_condition
from score_sde.networks.embeddings import sinusoidal
from score_sde.networks.fields import (
    as_tuples,
    check_at_least,
    check_blocks,
    check_computation,
)
from score_sde.networks.layers import GroupNorm, TokenNorm, conv, dense, wide
from score_sde.networks.remat import kept

Features = Float[Array, "b ..."]
Tokens = Float[Array, "b tokens c"]
KeyMask = Bool[Array, "b keys"]


class TransformerLayer(nn.Module):
    """x + self-attention, + cross-attention to the context, + W₂ (a ∘ gelu(g)) with (a, g) = W₁ x, each of the layer norm of x.

    Source: Stable Diffusion, arXiv 2112.10752, App. E.2.1, and its code.
    """

    num_heads: int
    attention: str = "plain"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Tokens, context: Float[Array, "b keys e"], mask: KeyMask | None = None) -> Tokens:
        width = x.shape[-1]
        attention = functools.partial(
            Attention, self.num_heads, use_bias=False, attention=self.attention, dtype=self.dtype
        )
        x = x + attention(name="self_attention")(self._norm("norm_0", x))
        x = x + attention(name="cross_attention")(self._norm("norm_1", x), context, mask)
        values, gates = jnp.split(dense(8 * width, self.dtype, "mlp_0")(self._norm("norm_2", x)), 2, axis=-1)
        return x + dense(width, self.dtype, "mlp_1")(values * nn.gelu(gates, approximate=False))

    def _norm(self, name: str, x: Tokens) -> Tokens:
        return TokenNorm("layer", epsilon=1e-5, dtype=self.dtype, name=name)(x)


class SpatialTransformer(nn.Module):
    """y = x + W₁ (transformer layers of W₀ x̂), with the places of x as tokens and x̂ the group-normalized x."""

    depth: int
    num_heads: int
    groups: int
    attention: str = "plain"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Features, context: Float[Array, "b keys e"], mask: KeyMask | None = None) -> Features:
        channels = x.shape[-1]
        h = GroupNorm(None, 1e-6, self.dtype, self.groups, name="norm")(x).reshape(x.shape[0], -1, channels)
        h = dense(channels, self.dtype, "in")(h)
        for i in range(self.depth):
            h = TransformerLayer(self.num_heads, self.attention, self.dtype, name=f"layer_{i}")(h, context, mask)
        return x + dense(channels, self.dtype, "out", scale=0.0)(h).reshape(x.shape)


class UNet2DCondition(nn.Module):
    """F(x, c_noise, condition): `[b, *space, c]` to `[b, *space, out_channels]` in float32. The defaults are SD 1.

    The condition "text" `[b, L, d]` is the tokens of the text. With "text_mask" `[b, L]` only the tokens at
    which it is not 0 count. The condition "embedding" `[b, embedding_dim]` joins the noise level by
    an MLP.

    Attributes:
      widths: the number of features of each level. Each level after the first halves every side.
      blocks_per_level: the number of residual blocks per level of the encoder. The decoder has one
        more.
      transformer_layers: the number of transformer layers after each block of a level, 0 for none.
      middle_layers: the number of transformer layers in the middle.
      num_heads: the number of heads of each level.
      token_dim: the width of the condition "text".
      embedding_dim: the width of the condition "embedding", 0 for none.
      norm_groups: the number of groups of every group norm.
      norm_epsilon: the number that the group norms of residual blocks add to the variance.
      attention: "plain", or "fused" for cuDNN's kernel, which has no Jacobian-vector products.
      dropout: the dropout rate in the residual blocks while training.
      out_channels: None for as many as x has.
      dtype: "float32" or "bfloat16", for the computation, as in `UNet`. "float64" is for
        comparisons.
      remat: the values that the backward pass computes again, to save memory, as in `UNet`.

    Source: arXiv 2112.10752 (SD), 2307.01952 (SDXL); UNet2DConditionModel of diffusers.
    """

    widths: Sequence[int] = (320, 640, 1280, 1280)
    blocks_per_level: int = 2
    transformer_layers: Sequence[int] = (1, 1, 1, 0)
    middle_layers: int = 1
    num_heads: Sequence[int] = (8, 8, 8, 8)
    token_dim: int = 768
    embedding_dim: int = 0
    norm_groups: int = 32
    norm_epsilon: float = 1e-5
    attention: str = "plain"
    dropout: float = 0.0
    out_channels: int | None = None
    dtype: str = "float32"
    remat: str = "none"

    def __post_init__(self) -> None:
        as_tuples(self, "widths", "transformer_layers", "num_heads")
        check_computation(self)
        check_blocks(self, "blocks_per_level")
        check_at_least(self, 1, "widths", "num_heads", "token_dim", "norm_groups", "middle_layers")
        check_at_least(self, 0, "transformer_layers", "embedding_dim")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"UNet2DCondition needs 0 <= dropout < 1, got {self.dropout}.")
        if not len(self.widths) == len(self.transformer_layers) == len(self.num_heads) >= 1:
            raise ValueError(
                "UNet2DCondition needs one entry for each level in widths, transformer_layers and num_heads, got "
                f"{self.widths}, {self.transformer_layers} and {self.num_heads}."
            )
        for width, heads in zip(self.widths, self.num_heads, strict=True):
            if width % heads or width % self.norm_groups:
                raise ValueError(
                    f"UNet2DCondition needs num_heads and norm_groups that divide the widths, got {self.widths}, "
                    f"{self.num_heads} and {self.norm_groups}."
                )
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b *space c"],
        noise_label: Float[Array, " b"],
        condition: Mapping[str, Array] | None = None,
        train: bool = False,
    ) -> Float[Array, "b *space out"]:
        condition = condition or {}
        self._check(x, condition)
        context = condition["text"].astype(self.dtype)
        mask = condition.get("text_mask")
        text = (context, None if mask is None else mask != 0)
        emb = self._embedding(noise_label, condition)
        skips = self._encode(x, emb, text, train)
        h = self._block("middle_block_0", self.widths[-1])(skips[-1], emb, train)
        h = self._transformer("middle_attention", len(self.widths) - 1, self.middle_layers)(h, *text)
        h = self._block("middle_block_1", self.widths[-1])(h, emb, train)
        h = self._decode(h, skips, emb, text, train)
        dtype = wide(self.dtype)
        h = GroupNorm(nn.swish, self.norm_epsilon, dtype, self.norm_groups, name="output_norm")(h)
        return conv(self.out_channels or x.shape[-1], x.ndim - 2, dtype, "output", scale=0.0)(h)

    def null(self, condition: Mapping[str, Array]) -> dict[str, Array]:
        """The condition that means "no condition": zeros. SD was trained with the tokens of an empty text instead."""
        return null_condition(condition, None)

    @staticmethod
    def tensor_axis(path: tuple[str, ...]) -> int | None:
        """Heads and the features of the MLP are divided, and the features inside a residual block."""
        return TENSOR_AXES.get(path[-2]) if len(path) > 2 and path[-1] == "kernel" else None

    def _embedding(self, noise_label: Array, condition: Mapping[str, Array]) -> Float[Array, "b e"]:
        width, dtype = 4 * self.widths[0], wide(self.dtype)
        features = sinusoidal(noise_label, self.widths[0], endpoint=False)
        emb = dense(width, dtype, "noise_1")(nn.swish(dense(width, dtype, "noise_0")(features)))
        if self.embedding_dim:
            h = nn.swish(dense(width, dtype, "embedding_0")(condition["embedding"].astype(dtype)))
            emb = emb + dense(width, dtype, "embedding_1")(h)
        return nn.swish(emb)

    def _encode(self, x: Features, emb: Array, text: tuple[Array, Array | None], train: bool) -> list[Features]:
        skips = [conv(self.widths[0], x.ndim - 2, self.dtype, "input")(x)]
        for level, width in enumerate(self.widths):
            for i in range(self.blocks_per_level):
                h = self._block(f"encoder_{level}_block_{i}", width)(skips[-1], emb, train)
                skips.append(self._attend(f"encoder_{level}_attention_{i}", level, h, text))
            if level + 1 < len(self.widths):
                fields = ((1, 1), self.dtype, "both")
                skips.append(ResamplingConvolution("down", *fields, name=f"encoder_{level}_down")(skips[-1]))
        return skips

    def _decode(
        self, h: Features, skips: list[Features], emb: Array, text: tuple[Array, Array | None], train: bool
    ) -> Features:
        for level, width in reversed(list(enumerate(self.widths))):
            for i in range(self.blocks_per_level + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = self._block(f"decoder_{level}_block_{i}", width)(h, emb, train)
                h = self._attend(f"decoder_{level}_attention_{i}", level, h, text)
            if level:
                h = ResamplingConvolution("up", (1, 1), self.dtype, name=f"decoder_{level}_up")(h)
        return h

    def _attend(self, name: str, level: int, h: Features, text: tuple[Array, Array | None]) -> Features:
        depth = self.transformer_layers[level]
        return self._transformer(name, level, depth)(h, *text) if depth else h

    def _transformer(self, name: str, level: int, depth: int) -> nn.Module:
        block: Any = SpatialTransformer
        if self.remat != "none":
            block = nn.remat(SpatialTransformer, policy=kept(self.remat))
        return block(depth, self.num_heads[level], self.norm_groups, self.attention, self.dtype, name=name)

    def _block(self, name: str, features: int) -> nn.Module:
        block: Any = ResidualBlock
        if self.remat != "none":
            block = nn.remat(ResidualBlock, policy=kept(self.remat), static_argnums=(3,))  # 3: train
        return block(
            features,
            dropout=self.dropout,
            skip_rescale=False,
            dtype=self.dtype,
            groups=self.norm_groups,
            epsilon=self.norm_epsilon,
            name=name,
        )

    def _check(self, x: Features, condition: Mapping[str, Array]) -> None:
        """Raises ValueError where x cannot be halved by the levels, or the conditions are not what the fields say."""
        factor, space = 2 ** (len(self.widths) - 1), x.shape[1:-1]
        if not space or any(side % factor for side in space):
            raise ValueError(
                f"UNet2DCondition with {len(self.widths)} levels needs images with sides divisible by {factor}, got "
                f"{x.shape}; pad or resize the data, or use fewer levels."
            )
        needed = {"text": self.token_dim} | ({"embedding": self.embedding_dim} if self.embedding_dim else {})
        came = {name: values.shape[-1] for name, values in condition.items() if name != "text_mask"}
        if came != needed:
            raise ValueError(
                f"UNet2DCondition needs the conditions {needed} (name and width), got {came}; pass exactly those, or set "
                "token_dim and embedding_dim."
            )


def size_embedding(
    text: Float[Array, "b d"], sizes: Float[Array, "b n"], num_features: int = 256
) -> Float[Array, "b e"]:
    """SDXL's condition "embedding": the pooled text, then [cos, sin] features of each of the sizes.

    Source: arXiv 2307.01952, Sec. 2.2. The sizes are the original height and width, the crop's top
      and left, and the target's height and width.
    """
    features = jax.vmap(lambda column: sinusoidal(column, num_features, endpoint=False), 1, 1)(sizes)
    sines, cosines = jnp.split(features, 2, axis=-1)
    return jnp.concatenate([text, jnp.concatenate([cosines, sines], axis=-1).reshape(len(text), -1)], axis=-1)


TENSOR_AXES = {
    "query": -1, "key": -1, "value": -1, "out": -2, "mlp_0": -1, "mlp_1": -2, "conv_0": -1, "embedding": -1, "conv_1": -2,
}  # fmt: skip
