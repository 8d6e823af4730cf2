"""JiT: the transformer on pixels, which predicts clean images from large patches."""

from collections.abc import Mapping

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from score_sde.networks.attention import features_of_a_head
from score_sde.networks.conditions import KINDS, Given, HasNull, check_kinds
from score_sde.networks.fields import check_at_least, check_transformer
from score_sde.networks.layers import dense
from score_sde.networks.patches import check_images, check_patches, grid_of, patchify, unpatchify
from score_sde.networks.positions import check_positions, rope, sincos_positions
from score_sde.networks.transformer import (
    AdaLNBlock,
    AdaLNOutput,
    Mask,
    NoiseAndConditions,
    Tokens,
    hidden_features,
    mask_of,
    normal_002,
    pixels_out,
    remat_block,
    transformer_axis,
    vector_of,
)


class JiT(HasNull, nn.Module):
    """F(x, c_noise, condition): `[b, *space, c]` to `[b, *space, out_channels]`, by a transformer on large patches.

    A patch goes through a narrow layer before it becomes a token. It has the blocks of `DiT`
    with adaLN-zero, RMS norms, normalized queries and keys, rotary positions and "swiglu". From one
    block on, copies of the class vector are further tokens. The defaults are JiT-B/16.

    Attributes:
      patch_size: the side of a patch, which divides every side of x.
      width: the number of features of a token.
      depth: the number of blocks.
      num_heads: the number of heads of attention, which divides the width.
      mlp_ratio: an MLP has two thirds of mlp_ratio · width hidden features.
      bottleneck: the number of features between a patch and its token.
      context_length: the number of tokens that copy the sum of the class and other vectors.
      context_start: the first block with these tokens and with tokens of a condition.
      dropout: the dropout rate while training, in the middle half of the blocks.
      num_classes: 0 for none. The label `num_classes` is the learned null class. In a config, None
        takes the number of the data.
      embedding_dim: the width of the condition "embedding", 0 for none.
      conditions: further conditions by name, "vector" (as the embedding), "tokens" (in context) or
        "image" (channels beside x). In a config, None takes the conditions of the data.
      out_channels: None for as many as x has.
      attention: "plain" or "fused", as in `DiT`.
      dtype: the type of the computation, as in `DiT`.
      remat: the values that the backward pass computes again, as in `UNet`.

    Source: Li and He, arXiv 2511.13720. One difference: with context_start >= depth there is no
      context. The published code then cuts image tokens off.
    """

    patch_size: int = 16
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    bottleneck: int = 128
    context_length: int = 32
    context_start: int = 4
    dropout: float = 0.0
    num_classes: int | None = 0
    embedding_dim: int | None = 0
    conditions: Mapping[str, str] | None = None
    out_channels: int | None = None
    attention: str = "plain"
    dtype: str = "float32"
    remat: str = "none"

    def __post_init__(self) -> None:
        check_kinds(self, KINDS)
        check_transformer(self)
        check_at_least(self, 1, "bottleneck")
        check_at_least(self, 0, "context_length", "context_start")
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b *space c"],
        noise_label: Float[Array, " b"],
        condition: Mapping[str, Array] | None = None,
        train: bool = False,
    ) -> Float[Array, "b *space out"]:
        check_patches(self, x)
        check_positions(self, x.ndim - 2, sincos=True, rotated=True)
        emb, given = NoiseAndConditions(
            self.width,
            num_classes=self.num_classes,
            embedding_dim=self.embedding_dim,
            conditions=self.conditions,
            dtype=self.dtype,
            name="embedding",
        )(noise_label, condition, x)
        check_images(self, x, given)
        grid, emb = grid_of(x.shape[1:-1], self.patch_size), nn.swish(emb)
        h = dense(self.bottleneck, self.dtype, "patch", use_bias=False)(patchify(given.beside(x), self.patch_size))
        h = dense(self.width, self.dtype, "token")(h)
        h = h + jnp.asarray(sincos_positions(grid, self.width), h.dtype)[None]
        h = self._blocks(h, grid, emb, given, train)
        features = pixels_out(x, self.out_channels, self.patch_size)
        return unpatchify(AdaLNOutput(features, "rms", self.dtype, name="output")(h, emb), grid, self.patch_size)

    tensor_axis = staticmethod(transformer_axis)

    def _blocks(
        self, h: Tokens, grid: tuple[int, ...], emb: Float[Array, "b width"], given: Given, train: bool
    ) -> Tokens:
        block, mask, extra = remat_block(AdaLNBlock, self.remat, 7), None, 0
        features = hidden_features(self.width, self.mlp_ratio, "swiglu")
        d, quarter = features_of_a_head(self.width, self.num_heads), self.depth // 4
        rotation = rope(grid, d)
        for i in range(self.depth):
            if i == self.context_start:
                context, mask = self._context(given, h)
                h, extra = jnp.concatenate([context, h], axis=1), context.shape[1]
                rotation = rope(grid, d, extra)
            dropout = self.dropout if quarter <= i < 3 * quarter else 0.0
            fields = ("swiglu", "rms", 1e-6, "rms", dropout, self.attention, self.dtype)
            h = block(self.num_heads, features, *fields, name=f"block_{i}")(h, emb, mask, rotation, None, None, train)
        return h[:, extra:]

    def _context(self, given: Given, h: Tokens) -> tuple[Float[Array, "b extra width"], Mask | None]:
        """(the tokens before the patches, which of all tokens count): copies of the vector, tokens of conditions."""
        context: list[Array] = []
        if given.vectors and self.context_length:
            positions = self.param("context", normal_002, (1, self.context_length, self.width)).astype(h.dtype)
            context.append(vector_of(given, self.width).astype(h.dtype)[:, None] + positions)
        mask = mask_of(given, self.context_length if context else 0, h)
        if given.tokens is not None:
            context.append(given.tokens.astype(h.dtype))
        return (jnp.concatenate(context, axis=1) if context else jnp.zeros((len(h), 0, self.width), h.dtype)), mask
