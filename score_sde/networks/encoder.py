"""The encoder half of the U-Net, with one vector as its output: a classifier of images and signals."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from score_sde.networks.attention import AttentionBlock
from score_sde.networks.blocks import ResidualBlock
from score_sde.networks.conditions import check_channels, check_kinds, null_condition
from score_sde.networks.embeddings import Embedding
from score_sde.networks.fields import check_at_least, check_attention, check_shared
from score_sde.networks.layers import GroupNorm, conv, dense


class Encoder(nn.Module):
    """F(x, c_noise, condition): `[b, *space, c]` to `[b, out_features]` in float32.

    The encoder is a stack of residual blocks and a mean over space.

    Attributes:
      out_features: the length of the output. The config of a classifier leaves it out: it is then
        the number of classes of the data.
      channels: the number of features at the full resolution, before multiplication.
      channel_multipliers: one factor per level. Each level after the first halves every side.
      blocks_per_level: the number of residual blocks per level.
      attention_resolutions: heights (or lengths) at which attention follows each block. The end of
        the network always has attention.
      resample_taps: the filter that halves, as in `UNet`.
      skip_rescale: whether every sum of two branches is divided by √2.
      noise_embedding: "sinusoidal" (labels of about 0 … 1000) or "fourier" (labels of about −10 …
        10).
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
    resample_taps: Sequence[int | float] = (1, 1)
    skip_rescale: bool = True
    noise_embedding: str = "sinusoidal"
    fourier_scale: float = 16.0
    dropout: float = 0.1
    num_classes: int = 0
    embedding_dim: int = 0
    conditions: Mapping[str, str] | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("channel_multipliers", "attention_resolutions", "resample_taps"):
            # A config gives lists, but a network must be hashable.
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_shared(self)
        check_kinds(self, ("vector", "image"))
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
                h = self._block(f"level_{level}_down", h.shape[-1], "down")(h, emb, train)
            for i in range(self.blocks_per_level):
                h = self._block(f"level_{level}_block_{i}", self.channels * multiplier)(h, emb, train)
                if h.shape[1] in self.attention_resolutions:
                    h = AttentionBlock(self.skip_rescale, self.dtype, name=f"level_{level}_attention_{i}")(h)
        h = self._block("end_block_0", h.shape[-1])(h, emb, train)
        h = AttentionBlock(self.skip_rescale, self.dtype, name="end_attention")(h)
        h = self._block("end_block_1", h.shape[-1])(h, emb, train)
        h = GroupNorm(nn.swish, name="output_norm")(h)
        pooled = jnp.mean(h.astype(jnp.float32), axis=tuple(range(1, h.ndim - 1)))
        return dense(out_features, "float32", "output", scale=0.0)(pooled)

    def null(self, condition: Mapping[str, Array]) -> dict[str, Any]:
        """The condition that means "no condition", in the shape of `condition`."""
        return null_condition(condition, self.num_classes)

    def _block(self, name: str, features: int, resample: str = "none") -> nn.Module:
        return ResidualBlock(
            features, resample, self.resample_taps, self.dropout, self.skip_rescale, self.dtype, name=name
        )

    def _embedding(self) -> Embedding:
        return Embedding(
            num_features=self.channels if self.noise_embedding == "sinusoidal" else 2 * self.channels,
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
