"""The encoder half of the U-Net, with one vector as its output: a classifier of images and signals."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from score_sde.networks.attention import AttentionBlock, attend, features_of_a_head
from score_sde.networks.blocks import RESAMPLE, ResamplingConvolution, ResidualBlock
from score_sde.networks.conditions import HasNull, check_channels, check_kinds
from score_sde.networks.embeddings import Embedding
from score_sde.networks.fields import as_tuples, check_at_least, check_attention, check_choice, check_shared
from score_sde.networks.layers import GroupNorm, conv, dense, wide

POOL = ("mean", "attention")
CHOICES = {
    "pool": POOL,
    "resample_by": ("block", "convolution", "filter"),
    "downsample_padding": ("end", "both"),
}


class AttentionPool(nn.Module):
    """W softmax(q kᵀ / √d) v with one query, of the mean token, and keys and values of it and all tokens.

    A learned vector for each place is added to the tokens before. So the network fits one size of
    image.

    Source: CLIP, arXiv 2103.00020, in the classifier of ADM, arXiv 2105.05233, App. H.
    """

    out_features: int
    num_heads: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"]) -> Float[Array, "b out"]:
        batch, channels = x.shape[0], x.shape[-1]
        d = features_of_a_head(channels, self.num_heads)
        x = x.reshape(batch, -1, channels)
        x = jnp.concatenate([x.mean(axis=1, keepdims=True), x], axis=1)
        init = nn.initializers.normal(channels**-0.5)
        x = x + self.param("positions", init, x.shape[1:])[None].astype(x.dtype)
        qkv = dense(3 * channels, self.dtype, "qkv")(x)
        q, k, v = (y.reshape(batch, -1, self.num_heads, d) for y in jnp.split(qkv, 3, axis=-1))
        h = attend(q[:, :1], k, v).reshape(batch, channels)
        return dense(self.out_features, wide(self.dtype), "out")(h.astype(wide(self.dtype)))


class Encoder(HasNull, nn.Module):
    """F(x, c_noise, condition): `[b, *space, c]` to `[b, out_features]` in float32.

    The encoder is a stack of residual blocks and a mean, or attention, over space.

    Attributes:
      out_features: the length of the output. The config of a classifier leaves it out: it is then
        the number of classes of the data.
      channels: the number of features at the full resolution, before multiplication.
      channel_multipliers: one factor per level. Each level after the first halves every side.
      blocks_per_level: the number of residual blocks per level.
      attention_resolutions: heights (or lengths) at which attention follows each block. The end of
        the network always has attention.
      num_heads: the number of heads of every attention.
      head_channels: the number of features of a head, in place of num_heads. None keeps num_heads.
      resample_by: the operation that halves, as in `UNet`: "block", "convolution" or "filter".
      resample_taps: the filter that halves, as in `UNet`.
      downsample_padding: the place of the zeros around a plain convolution that halves, as in
        `UNet`.
      skip_rescale: whether every sum of two branches is divided by √2.
      skip_projection: whether a residual block that halves has a 1×1 convolution in its shortcut.
      scale_shift: whether the embedding scales and shifts after each block's second norm, as in
        ADM.
      norm_groups: the number of groups of every group norm, as in `UNet`.
      norm_epsilon: the number that every group norm adds to the variance.
      pool: "mean" over space and a linear map, or "attention" of the mean to all places.
      noise_embedding: "sinusoidal" (labels of about 0 … 1000), "sinusoidal_open" (as in ADM) or
        "fourier" (labels of about −10 … 10).
      fourier_scale: the standard deviation of the Fourier frequencies.
      dropout: the dropout rate in the residual blocks while training.
      num_classes: the number of classes of the condition "label", 0 for none. A classifier of the
        label has 0.
      embedding_dim: the width of the condition "embedding", 0 for none.
      conditions: further conditions by name, of kind "vector" or "image" (channels beside x).
      dtype: "float32" or "bfloat16", for the computation, as in `UNet`.

    Source: the classifier of Dhariwal and Nichol, arXiv 2105.05233, App. H, with the blocks of
      score_sde and the pooling "adaptive" of its code.
    """

    out_features: int | None = None
    channels: int = 64
    channel_multipliers: Sequence[int] = (1, 2, 2)
    blocks_per_level: int = 2
    attention_resolutions: Sequence[int] = (16,)
    num_heads: int = 1
    head_channels: int | None = None
    resample_by: str = "block"
    resample_taps: Sequence[int | float] = (1, 1)
    downsample_padding: str = "end"
    skip_rescale: bool = True
    skip_projection: bool = True
    scale_shift: bool = False
    norm_groups: int | None = None
    norm_epsilon: float = 1e-6
    pool: str = "mean"
    noise_embedding: str = "sinusoidal"
    fourier_scale: float = 16.0
    dropout: float = 0.1
    num_classes: int = 0
    embedding_dim: int = 0
    conditions: Mapping[str, str] | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        as_tuples(self, "channel_multipliers", "attention_resolutions", "resample_taps")
        check_shared(self)
        check_kinds(self, ("vector", "image"))
        for name, allowed in CHOICES.items():
            check_choice(self, name, allowed)
        for name in ("num_heads", "head_channels", "norm_groups"):
            if getattr(self, name) is not None:
                check_at_least(self, 1, name)
        if self.out_features is not None:
            check_at_least(self, 1, "out_features")
        check_at_least(self, 1, "channels", "channel_multipliers", "blocks_per_level")
        if not self.channel_multipliers:
            raise ValueError("Encoder needs at least one level, got channel_multipliers=(); give one factor per level.")
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b *space c"],
        noise_label: Float[Array, " b"],
        condition: Mapping[str, Array] | None = None,
        train: bool = False,
    ) -> Float[Array, "b out"]:
        out_features = self._checked_input(x)
        emb, given = self._embedding()(noise_label, condition, x)
        check_channels(self, "input", x, given)
        h = conv(self.channels, x.ndim - 2, self.dtype, "input")(given.beside(x))
        for level, multiplier in enumerate(self.channel_multipliers):
            if level:
                h = self._down(f"level_{level}_down", h, emb, train)
            for i in range(self.blocks_per_level):
                h = self._block(f"level_{level}_block_{i}", self.channels * multiplier)(h, emb, train)
                if h.shape[1] in self.attention_resolutions:
                    h = self._attention(f"level_{level}_attention_{i}", h.shape[-1])(h)
        h = self._block("end_block_0", h.shape[-1])(h, emb, train)
        h = self._attention("end_attention", h.shape[-1])(h)
        h = self._block("end_block_1", h.shape[-1])(h, emb, train)
        dtype = wide(self.dtype)
        h = GroupNorm(nn.swish, self.norm_epsilon, dtype, self.norm_groups, name="output_norm")(h)
        if self.pool == "attention":
            return AttentionPool(out_features, self._heads(h.shape[-1]), self.dtype, name="pool")(h)
        pooled = jnp.mean(h, axis=tuple(range(1, h.ndim - 1)))
        return dense(out_features, dtype, "output", scale=0.0)(pooled)

    def _block(self, name: str, features: int, resample: str = "none") -> nn.Module:
        return ResidualBlock(
            features,
            resample,
            self.resample_taps,
            self.dropout,
            self.skip_rescale,
            self.dtype,
            self.norm_groups,
            self.scale_shift,
            self.skip_projection,
            self.norm_epsilon,
            name=name,
        )

    def _down(self, name: str, h: Array, emb: Array, train: bool) -> Array:
        if self.resample_by == "filter":
            return RESAMPLE["down"](h, self.resample_taps)
        if self.resample_by == "convolution":
            taps, padding = self.resample_taps, self.downsample_padding
            return ResamplingConvolution("down", taps, self.dtype, padding, name=name)(h)
        return self._block(name, h.shape[-1], "down")(h, emb, train)

    def _heads(self, features: int) -> int:
        return self.num_heads if self.head_channels is None else features // self.head_channels

    def _attention(self, name: str, features: int) -> nn.Module:
        heads = self._heads(features)
        fields = (self.skip_rescale, self.dtype, self.norm_groups, heads, "plain", self.norm_epsilon)
        return AttentionBlock(*fields, name=name)

    def _embedding(self) -> Embedding:
        return Embedding(
            num_features=2 * self.channels if self.noise_embedding == "fourier" else self.channels,
            width=4 * self.channels,
            noise_embedding=self.noise_embedding,
            fourier_scale=self.fourier_scale,
            num_classes=self.num_classes,
            embedding_dim=self.embedding_dim,
            conditions=self.conditions,
            dtype=self.dtype,
            name="embedding",
        )

    def _checked_input(self, x: Array) -> int:
        """The length of the output.

        Raises: ValueError if the length is None. ValueError where x has no spatial axis, or a side
          that the levels cannot halve, or where no level has a height of `attention_resolutions`.
        """
        if self.out_features is None:
            raise ValueError("Encoder needs out_features, got None; give the length of the output.")
        factor, space = 2 ** (len(self.channel_multipliers) - 1), x.shape[1:-1]
        if not space:
            raise ValueError(
                f"Encoder needs images [b, h, w, c] or signals [b, l, c], got {x.shape}; use MLP for points."
            )
        if any(side % factor for side in space):
            raise ValueError(
                f"Encoder with {len(self.channel_multipliers)} levels needs sides divisible by {factor}, got {space}; "
                "pad or resize the data, or use fewer channel_multipliers."
            )
        check_attention(self, space[0], "at the end")
        return self.out_features
