"""U-ViT: a transformer with long skip connections, in which noise level and conditions are tokens."""

import math
from collections.abc import Mapping

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from score_sde.networks.attention import Attention
from score_sde.networks.conditions import KINDS, Conditions, Given, HasNull, check_kinds
from score_sde.networks.fields import check_transformer
from score_sde.networks.layers import TokenNorm, conv, dense, wide
from score_sde.networks.patches import check_images, check_patches, grid_of, patchify, unpatchify
from score_sde.networks.transformer import (
    Feedforward,
    Mask,
    Tokens,
    cosines,
    mask_of,
    pixels_out,
    remat_block,
    transformer_axis,
)

EPSILON = 1e-5  # the published networks have PyTorch's default
truncated_002 = nn.initializers.truncated_normal(0.02)
uniform_by_inputs = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # PyTorch's default for convolutions


class SkipBlock(nn.Module):
    """x ← W [x, skip] with a skip; x ← x + attention(norm(x)), x ← x + mlp(norm(x)).

    Source: Bao et al., arXiv 2209.12152, Fig. 1.
    """

    num_heads: int
    mlp_features: int
    qkv_bias: bool = False
    attention: str = "plain"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Tokens, skip: Tokens | None = None, mask: Mask | None = None) -> Tokens:
        if skip is not None:
            x = dense(x.shape[-1], self.dtype, "skip", init=truncated_002)(jnp.concatenate([x, skip], axis=-1))
        h = TokenNorm(epsilon=EPSILON, dtype=self.dtype, name="norm_0")(x)
        x = x + Attention(
            self.num_heads,
            use_bias=self.qkv_bias,
            attention=self.attention,
            kernel_init=truncated_002,
            dtype=self.dtype,
            name="attention",
        )(h, None, mask)
        h = TokenNorm(epsilon=EPSILON, dtype=self.dtype, name="norm_1")(x)
        return x + Feedforward(self.mlp_features, "exact_gelu", 0.0, truncated_002, self.dtype, name="mlp")(h)


class UViT(HasNull, nn.Module):
    """F(x, c_noise, condition): `[b, *space, c]` to `[b, *space, out_channels]`, by a transformer with long skips.

    Each patch of x is a token, and so are the noise level, the class, each vector, and each token
    of a condition. Blocks i and depth − 1 − i are joined by a skip. The defaults are U-ViT-S/2.

    Attributes:
      patch_size: the side of a patch, which divides every side of x.
      width: the number of features of a token.
      depth: the number of blocks, an odd number.
      num_heads: the number of heads of attention, which divides the width.
      mlp_ratio: the hidden features of an MLP, as a multiple of the width.
      qkv_bias: whether queries, keys and values have a bias.
      noise_mlp: whether an MLP follows the sines and cosines of the noise level.
      final_conv: whether a 3×3 convolution follows the patches.
      null_token: whether a learned token comes before the tokens of a condition, so that the null
        condition is a token too.
      num_classes: 0 for none. The label `num_classes` is the learned null class. In a config, None
        takes the number of the data.
      embedding_dim: the width of the condition "embedding", 0 for none.
      conditions: further conditions by name, "vector", "tokens" (a fixed number of them) or "image"
        (channels beside x). In a config, None takes the conditions of the data.
      out_channels: None for as many as x has.
      attention: "plain" or "fused", as in `DiT`.
      dtype: the type of the computation, as in `DiT`.
      remat: the values that the backward pass computes again, as in `UNet`.

    Source: Bao et al., arXiv 2209.12152. Learned positions fix the size of x and the number of
      tokens.
    """

    patch_size: int = 2
    width: int = 512
    depth: int = 13
    num_heads: int = 8
    mlp_ratio: float = 4.0
    qkv_bias: bool = False
    noise_mlp: bool = False
    final_conv: bool = True
    null_token: bool = True
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
        if self.depth % 2 == 0:
            raise ValueError(f"UViT needs an odd depth, got {self.depth}; a skip joins each block to its mirror image.")
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
        given = self._given(condition, x)
        check_images(self, x, given)
        grid, out = grid_of(x.shape[1:-1], self.patch_size), wide(self.dtype)
        h = dense(self.width, self.dtype, "patch", init=uniform_by_inputs)(patchify(given.beside(x), self.patch_size))
        extra, mask = self._extra(noise_label, given, h)
        h = jnp.concatenate([*extra, h], axis=1)
        positions = self.param("positions", truncated_002, (1, *h.shape[1:]))
        h = self._blocks(h + positions.astype(h.dtype), mask)
        h = TokenNorm(epsilon=EPSILON, dtype=out, name="output_norm")(h)[:, -math.prod(grid) :]
        h = dense(pixels_out(x, self.out_channels, self.patch_size), out, "output", init=truncated_002)(h)
        y = unpatchify(h, grid, self.patch_size)
        return conv(y.shape[-1], x.ndim - 2, out, "final_conv")(y) if self.final_conv else y

    tensor_axis = staticmethod(transformer_axis)

    def _given(self, condition: Mapping[str, Array] | None, x: Array) -> Given:
        return Conditions(
            width=self.width,
            token_width=self.width,
            num_classes=self.num_classes or 0,
            embedding_dim=self.embedding_dim or 0,
            kinds=self.conditions,
            null_token=self.null_token,
            dtype=self.dtype,
            name="conditions",
        )(condition, x)

    def _extra(
        self, noise_label: Array, given: Given, h: Tokens
    ) -> tuple[list[Float[Array, "b _ width"]], Mask | None]:
        """(the tokens before the patches, which of all tokens count): vectors, noise level, tokens of conditions."""
        noise = cosines(noise_label, self.width, self.dtype).astype(h.dtype)
        if self.noise_mlp:
            noise = nn.silu(dense(4 * self.width, self.dtype, "noise_0", init=truncated_002)(noise))
            noise = dense(self.width, self.dtype, "noise_1", init=truncated_002)(noise)
        extra = [vector[:, None].astype(h.dtype) for vector in (*given.vectors, noise)]
        if given.tokens is None:
            return extra, None
        return [*extra, given.tokens.astype(h.dtype)], mask_of(given, len(extra), h)

    def _blocks(self, h: Tokens, mask: Mask | None) -> Tokens:
        block, features = remat_block(SkipBlock, self.remat), int(self.width * self.mlp_ratio)
        skips: list[Tokens] = []
        for i in range(self.depth):
            skip = skips.pop() if i > self.depth // 2 else None
            h = block(self.num_heads, features, self.qkv_bias, self.attention, self.dtype, name=f"block_{i}")(
                h, skip, mask
            )
            if i < self.depth // 2:
                skips.append(h)
        return h
