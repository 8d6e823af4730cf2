"""DiT and SiT: the diffusion transformer, for images and signals, and for encoded ones."""

import functools
from collections.abc import Mapping

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from score_sde.networks.attention import QK_NORMS, features_of_a_head
from score_sde.networks.conditions import KINDS, Given, HasNull, check_kinds
from score_sde.networks.fields import check_choice, check_transformer
from score_sde.networks.layers import dense
from score_sde.networks.patches import check_images, check_patches, grid_of, patchify, unpatchify
from score_sde.networks.positions import Rotation, check_positions, rope, sincos_positions
from score_sde.networks.transformer import (
    MLPS,
    NORMS,
    AdaLNBlock,
    AdaLNOutput,
    NoiseAndConditions,
    Tokens,
    hidden_features,
    mask_of,
    normal_002,
    pixels_out,
    remat_block,
    transformer_axis,
)

POSITIONS = ("sincos", "learned", "none")
TOKENS_BY = ("cross_attention", "context")


class DiT(HasNull, nn.Module):
    """F(x, c_noise, condition): `[b, *space, c]` to `[b, *space, out_channels]`, by a transformer with adaLN-zero.

    Each patch of x is a token. Noise level, class and vectors shift, scale and gate every block.
    The defaults are DiT-S/2.

    Attributes:
      patch_size: the side of a patch, which divides every side of x.
      width: the number of features of a token.
      depth: the number of blocks.
      num_heads: the number of heads of attention, which divides the width.
      mlp_ratio: the hidden features of an MLP, as a multiple of the width. "swiglu" has two thirds
        of them.
      mlp: "gelu", "exact_gelu" or "swiglu".
      norm: "layer" or "rms".
      mlp_epsilon: ε of the norm before each MLP. diffusers' DiT has 1e-5.
      qk_norm: the norm of the queries and keys of each head: "none", "layer" or "rms".
      positions: what is added to the tokens: "sincos" (fixed, for any size of x), "learned" (for
        one size) or "none".
      rope: whether queries and keys are turned by their positions.
      reaches_end: whether the last frequency of the noise features is 1e-4, as in diffusers.
      own_embeddings: whether each block has its own embedding of noise level, class and vectors,
        as in diffusers.
      learn_sigma: whether the last layer computes twice as many channels. The second half, by
        which the published models describe the variance of a step, is left out of the output.
      tokens_by: where tokens of a condition enter: "cross_attention" in each block, or "context"
        (as further tokens of the sequence).
      dropout: the dropout rate of attention and MLPs while training.
      num_classes: 0 for none. The label `num_classes` is the learned null class. In a config, None
        takes the number of the data.
      embedding_dim: the width of the condition "embedding", 0 for none.
      conditions: further conditions by name, "vector" (as the embedding), "tokens" or "image"
        (channels beside x). In a config, None takes the conditions of the data.
      out_channels: None for as many as x has.
      attention: "plain", or "fused" for cuDNN's kernel where it fits (NVIDIA GPUs in bfloat16).
        "fused" has no Jacobian-vector products.
      dtype: "float32" or "bfloat16", for the computation. "float64" needs JAX's 64-bit mode.
        Parameters, norms, softmax and the output layer are float32 at least.
      remat: the values that the backward pass computes again, as in `UNet`.

    Source: Peebles and Xie, arXiv 2212.09748. SiT (arXiv 2401.08740) is the same network. The
      options qk_norm, rope, "rms" and "swiglu" are LightningDiT's, arXiv 2501.01423.
    """

    patch_size: int = 2
    width: int = 384
    depth: int = 12
    num_heads: int = 6
    mlp_ratio: float = 4.0
    mlp: str = "gelu"
    norm: str = "layer"
    mlp_epsilon: float = 1e-6
    qk_norm: str = "none"
    positions: str = "sincos"
    rope: bool = False
    reaches_end: bool = False
    own_embeddings: bool = False
    learn_sigma: bool = False
    tokens_by: str = "cross_attention"
    dropout: float = 0.0
    num_classes: int | None = 0
    embedding_dim: int | None = 0
    conditions: Mapping[str, str] | None = None
    out_channels: int | None = None
    attention: str = "plain"
    dtype: str = "float32"
    remat: str = "none"

    def __post_init__(self) -> None:
        check_kinds(self, ("vector",) if self.own_embeddings else KINDS)
        check_transformer(self)
        for name, allowed in (
            ("mlp", MLPS), ("norm", NORMS), ("qk_norm", QK_NORMS), ("positions", POSITIONS), ("tokens_by", TOKENS_BY),
        ):  # fmt: skip
            check_choice(self, name, allowed)
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
        check_positions(self, x.ndim - 2, sincos=self.positions == "sincos", rotated=self.rope)
        embs, given = self._embeddings(noise_label, condition, x)
        check_images(self, x, given)
        grid = grid_of(x.shape[1:-1], self.patch_size)
        h = dense(self.width, self.dtype, "patch")(patchify(given.beside(x), self.patch_size))
        h = self._blocks(self._with_positions(h, grid), grid, embs, given, train)
        features = pixels_out(x, self.out_channels, self.patch_size) * (2 if self.learn_sigma else 1)
        y = unpatchify(AdaLNOutput(features, self.norm, self.dtype, name="output")(h, embs[0]), grid, self.patch_size)
        return y[..., : self.out_channels or x.shape[-1]]

    tensor_axis = staticmethod(transformer_axis)

    def _embeddings(
        self, noise_label: Array, condition: Mapping[str, Array] | None, x: Array
    ) -> tuple[list[Float[Array, "b width"]], Given]:
        """(the embedding of each block after its swish, the conditions). The output takes the first block's."""
        names = [f"block_{i}_embedding" for i in range(self.depth)] if self.own_embeddings else ["embedding"]
        made = [
            NoiseAndConditions(
                self.width,
                reaches_end=self.reaches_end,
                num_classes=self.num_classes,
                embedding_dim=self.embedding_dim,
                conditions=self.conditions,
                dtype=self.dtype,
                name=name,
            )(noise_label, condition, x)
            for name in names
        ]
        embs = [nn.swish(emb) for emb, _ in made]
        return embs * (1 if self.own_embeddings else self.depth), made[0][1]

    def _with_positions(self, h: Tokens, grid: tuple[int, ...]) -> Tokens:
        if self.positions == "learned":
            return h + self.param("positions", normal_002, (1, *h.shape[1:])).astype(h.dtype)
        if self.positions == "sincos":
            return h + jnp.asarray(sincos_positions(grid, self.width), h.dtype)[None]
        return h

    def _blocks(
        self, h: Tokens, grid: tuple[int, ...], embs: list[Float[Array, "b width"]], given: Given, train: bool
    ) -> Tokens:
        block, mask, context, extra = remat_block(AdaLNBlock, self.remat, 7), None, given.tokens, 0
        if given.tokens is not None and self.tokens_by == "context":
            extra, context = given.tokens.shape[1], None
            mask = mask_of(given, 0, h)
            h = jnp.concatenate([given.tokens.astype(h.dtype), h], axis=1)
        rotation = self._rotation(grid, extra)
        for i, emb in enumerate(embs):
            h = block(
                self.num_heads,
                hidden_features(self.width, self.mlp_ratio, self.mlp),
                self.mlp,
                self.norm,
                self.mlp_epsilon,
                self.qk_norm,
                self.dropout,
                self.attention,
                self.dtype,
                name=f"block_{i}",
            )(h, emb, mask, rotation, context, None if context is None else given.mask, train)
        return h[:, extra:]

    def _rotation(self, grid: tuple[int, ...], extra: int) -> Rotation | None:
        return rope(grid, features_of_a_head(self.width, self.num_heads), extra) if self.rope else None


SiT = functools.partial(DiT, learn_sigma=True)
