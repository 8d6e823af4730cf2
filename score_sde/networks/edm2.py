"""EDM2's U-Net, whose layers keep the magnitude of activations and weights.

Levels are numbered as in `UNet`. `h` is the running array, and `skips` are the arrays that the
encoder passes to the decoder.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from score_sde.internal.unit_kernel import UNIT_KERNEL
from score_sde.networks.attention import attend, features_of_a_head
from score_sde.networks.blocks import RESAMPLE
from score_sde.networks.conditions import HasNull
from score_sde.networks.fields import (
    as_tuples,
    check_at_least,
    check_attention,
    check_blocks,
    check_computation,
    check_condition_sizes,
)
from score_sde.networks.layers import Dropout, wide
from score_sde.networks.magnitude import (
    MPConv,
    MPFourier,
    MPUncertainty,
    mp_concatenate,
    mp_sum,
    mp_swish,
    pixel_norm,
)
from score_sde.networks.remat import kept
from score_sde.networks.resample import Taps

TENSOR_AXES = {"conv_0": -1, "qkv": -1, "embedding": -1, "conv_1": -2, "out": -2}

Features = Float[Array, "b ..."]
Emb = Float[Array, "b e"]


class Settings(NamedTuple):
    """The fields of the network that all blocks share."""

    resample_taps: Taps
    residual_balance: float
    attention_balance: float
    clip: float | None
    dropout: float
    attention: str
    dtype: str


class MPBlock(nn.Module):
    """h = sum of x and W₁ ⋆ swish((1 + g A emb) · W₀ ⋆ swish(x)), then attention and a clip; all magnitude-preserving.

    In the encoder x is first resampled, mapped to `features` and divided by its norm at each place.
    In the decoder it is mapped only where it enters the sum. g starts at 0.

    Attributes:
      features: the number of features of h.
      encoder: whether the block is of the encoder.
      resample: "none", "down" or "up".
      num_heads: the number of heads of the attention that follows, 0 for none.
      settings: what all blocks share.

    Source: arXiv 2312.02696, Fig. 21.
    """

    features: int
    encoder: bool
    resample: str
    num_heads: int
    settings: Settings

    @nn.compact
    def __call__(self, x: Features, emb: Emb, train: bool = False) -> Features:
        net, dtype = self.settings, self.settings.dtype
        x = RESAMPLE[self.resample](x, net.resample_taps)
        if self.encoder:
            x = pixel_norm(self._skip(x))
        h = MPConv(self.features, 3, dtype, name="conv_0")(mp_swish(x))
        gain = self.param("embedding_gain", nn.initializers.zeros_init(), ())
        scale = MPConv(self.features, dtype=wide(dtype), name="embedding")(emb, gain) + 1
        scale = scale.reshape(scale.shape[0], *(1,) * (x.ndim - 2), self.features).astype(h.dtype)
        h = Dropout(net.dropout)(mp_swish(h * scale), deterministic=not train)
        h = MPConv(self.features, 3, dtype, name="conv_1")(h)
        h = mp_sum(x if self.encoder else self._skip(x), h, net.residual_balance)
        if self.num_heads:
            h = mp_sum(h, self._attended(h), net.attention_balance)
        return h if net.clip is None else jnp.clip(h, -net.clip, net.clip)

    def _skip(self, x: Features) -> Features:
        if x.shape[-1] == self.features:
            return x
        return MPConv(self.features, dtype=self.settings.dtype, name="skip")(x)

    def _attended(self, h: Features) -> Features:
        dtype, d = self.settings.dtype, features_of_a_head(self.features, self.num_heads)
        qkv = MPConv(3 * self.features, dtype=dtype, name="qkv")(h.reshape(h.shape[0], -1, self.features))
        q, k, v = (pixel_norm(y.reshape(*y.shape[:2], self.num_heads, d)) for y in jnp.split(qkv, 3, axis=-1))
        y = attend(q, k, v, None, self.settings.attention).reshape(h.shape)
        return MPConv(self.features, dtype=dtype, name="out")(y)


class EDM2UNet(HasNull, nn.Module):
    """F(x, c_noise, condition): `[b, *space, c]` to `[b, *space, out_channels]` in float32. Config G of EDM2.

    Attributes:
      channels: the number of features at the full resolution, before multiplication.
      channel_multipliers: one factor per level. Each level after the first halves every side.
      noise_multiplier: the number of noise features, divided by channels. None is the first of
        channel_multipliers.
      embedding_multiplier: the width of the embedding, divided by channels. None is the largest of
        channel_multipliers.
      blocks_per_level: the number of residual blocks per level of the encoder. The decoder has one
        more.
      attention_resolutions: heights (or lengths) at which attention follows every block. The middle
        of the lowest level always has attention.
      head_channels: the number of features of a head of attention.
      attention: "plain", or "fused" for cuDNN's kernel, which has no Jacobian-vector products.
      resample_taps: the filter that halves and doubles.
      label_balance: the share of the label in the embedding.
      concat_balance: the share of the encoder's arrays where the decoder takes them.
      residual_balance: the share of the residual branch of each block.
      attention_balance: the share of attention in each sum.
      clip: the largest absolute value of a block's output. None does not clip.
      dropout: the dropout rate in the residual blocks while training.
      num_classes: 0 for none. The label `num_classes` means "no label", as zeros in place of a
        one-hot label. In a config, None takes the number of the data.
      embedding_dim: the width of the condition "embedding", 0 for none. It joins as the label does.
      out_channels: None for as many as x has.
      uncertainty_features: the number of noise features of the learned uncertainty, where the
        objective learns one.
      dtype: "float32" or "bfloat16", for the computation. Parameters, norms of weights, softmax and
        the output layer are always float32. "float64" is for comparisons.
      remat: the values that the backward pass computes again, to save memory, as in `UNet`.

    Source: Karras et al., arXiv 2312.02696, App. B.
    """

    channels: int = 192
    channel_multipliers: Sequence[int] = (1, 2, 3, 4)
    noise_multiplier: int | None = None
    embedding_multiplier: int | None = None
    blocks_per_level: int = 3
    attention_resolutions: Sequence[int] = (16, 8)
    head_channels: int = 64
    attention: str = "plain"
    resample_taps: Sequence[int | float] = (1, 1)
    label_balance: float = 0.5
    concat_balance: float = 0.5
    residual_balance: float = 0.3
    attention_balance: float = 0.3
    clip: float | None = 256.0
    dropout: float = 0.0
    num_classes: int | None = 0
    embedding_dim: int | None = 0
    out_channels: int | None = None
    uncertainty_features: int = 128
    dtype: str = "float32"
    remat: str = "none"

    def __post_init__(self) -> None:
        as_tuples(self, "channel_multipliers", "attention_resolutions", "resample_taps")
        check_computation(self)
        check_at_least(self, 1, "channels", "channel_multipliers", "attention_resolutions", "head_channels")
        check_at_least(self, 1, "uncertainty_features")
        check_blocks(self, "blocks_per_level")
        for name in ("noise_multiplier", "embedding_multiplier", "out_channels"):
            if getattr(self, name) is not None:
                check_at_least(self, 1, name)
        check_condition_sizes(self)
        if not self.channel_multipliers:
            raise ValueError(
                "EDM2UNet needs at least one level, got channel_multipliers=(); give one factor per level."
            )
        self._check_numbers()
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b *space c"],
        noise_label: Float[Array, " b"],
        condition: Mapping[str, Array] | None = None,
        train: bool = False,
    ) -> Float[Array, "b *space out"]:
        self._check_input(x)
        emb = self._embedding(noise_label, condition or {})
        skips = self._encode(x, emb, train)
        h = self._decode(skips, emb, train)
        gain = self.param("output_gain", nn.initializers.zeros_init(), ())
        return MPConv(self.out_channels or x.shape[-1], 3, wide(self.dtype), name="output")(h, gain)

    def make_uncertainty(self) -> nn.Module:
        """The learned log-variance of the loss, which an objective may ask for."""
        return MPUncertainty(self.uncertainty_features, parent=None)  # a module of its own, not a part of this one

    @staticmethod
    def tensor_axis(path: tuple[str, ...]) -> int | None:
        """The features inside a block are divided: outputs of the first map of each pair, inputs of the second."""
        return TENSOR_AXES.get(path[-2]) if len(path) > 2 and path[-1] == UNIT_KERNEL else None

    def _embedding(self, noise_label: Array, condition: Mapping[str, Array]) -> Emb:
        self._check_condition(condition, noise_label.shape[0])
        factors, dtype = self.channel_multipliers, wide(self.dtype)
        features = MPFourier(self.channels * (self.noise_multiplier or factors[0]), name="fourier")(noise_label)
        width = self.channels * (self.embedding_multiplier or max(factors))
        emb = MPConv(width, dtype=dtype, name="noise")(features)
        if self.num_classes:
            vector = MPConv(width, dtype=dtype, name="label")(self._one_hot(condition["label"]))
            emb = mp_sum(emb, vector, self.label_balance)
        if self.embedding_dim:
            vector = MPConv(width, dtype=dtype, name="vector")(condition["embedding"].astype(dtype))
            emb = mp_sum(emb, vector, self.label_balance)
        return mp_swish(emb)

    def _check_condition(self, condition: Mapping[str, Array], batch: int) -> None:
        """Raises ValueError unless the condition holds exactly what the fields declare."""
        shapes: dict[str, tuple[int, ...]] = {"label": (batch,)} if self.num_classes else {}
        shapes |= {"embedding": (batch, self.embedding_dim)} if self.embedding_dim else {}
        came = {name: values.shape for name, values in condition.items()}
        if came != shapes:
            raise ValueError(
                f"EDM2UNet with num_classes={self.num_classes}, embedding_dim={self.embedding_dim} needs the conditions "
                f"{shapes}, got {came}; pass exactly those, or set the fields to what the data has."
            )

    def _one_hot(self, label: Array) -> Float[Array, "b classes"]:
        """√classes at the label, so of unit magnitude; zeros for the null class, NaN for a label out of range."""
        number = self.num_classes or 0
        rows = jax.nn.one_hot(label, number, dtype=wide(self.dtype)) * number**0.5
        return jnp.where(((label >= 0) & (label <= number))[:, None], rows, jnp.nan)

    def _encode(self, x: Features, emb: Emb, train: bool) -> list[Features]:
        """h after the first convolution, after every block, and after every halving."""
        # The channel of ones takes the place of a bias.
        x = jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1)
        skips = [MPConv(self.channels * self.channel_multipliers[0], 3, self.dtype, name="input")(x)]
        for level, multiplier in enumerate(self.channel_multipliers):
            for i in range(self.blocks_per_level):
                block = self._block(f"encoder_{level}_block_{i}", self.channels * multiplier, skips[-1])
                skips.append(block(skips[-1], emb, train))
            if level + 1 < len(self.channel_multipliers):
                h = skips[-1]
                block = self._block(f"encoder_{level}_down", h.shape[-1], h, "down", attention=False)
                skips.append(block(h, emb, train))
        return skips

    def _decode(self, skips: list[Features], emb: Emb, train: bool) -> Features:
        h = skips[-1]
        for i in (0, 1):
            h = self._block(f"middle_block_{i}", h.shape[-1], h, attention=i == 0)(h, emb, train)
        for level, multiplier in reversed(list(enumerate(self.channel_multipliers))):
            for i in range(self.blocks_per_level + 1):
                h = mp_concatenate(h, skips.pop(), self.concat_balance)
                h = self._block(f"decoder_{level}_block_{i}", self.channels * multiplier, h)(h, emb, train)
            if level > 0:
                h = self._block(f"decoder_{level}_up", h.shape[-1], h, "up", attention=False)(h, emb, train)
        return h

    def _block(
        self, name: str, features: int, h: Features, resample: str = "none", attention: bool | None = None
    ) -> nn.Module:
        """The block for h. `attention` None is by the height of h."""
        attention = h.shape[1] in self.attention_resolutions if attention is None else attention
        block: Any = MPBlock
        if self.remat != "none":
            block = nn.remat(MPBlock, policy=kept(self.remat), static_argnums=(3,))  # 3: train
        heads = max(features // self.head_channels, 1) if attention else 0
        settings = Settings(*(getattr(self, field) for field in Settings._fields))
        return block(features, name.startswith("encoder"), resample, heads, settings, name=name)

    def _check_numbers(self) -> None:
        """Raises ValueError for a share outside [0, 1], or a clip or dropout rate out of range."""
        for name in ("label_balance", "concat_balance", "residual_balance", "attention_balance"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"EDM2UNet needs 0 <= {name} <= 1, got {getattr(self, name)}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"EDM2UNet needs 0 <= dropout < 1, got {self.dropout}.")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"EDM2UNet needs clip > 0, got {self.clip}; None does not clip.")

    def _check_input(self, x: Features) -> None:
        """Raises ValueError where x has no spatial axis, or a side that the levels cannot halve or attend to."""
        factor, space = 2 ** (len(self.channel_multipliers) - 1), x.shape[1:-1]
        if not space or any(side % factor for side in space):
            raise ValueError(
                f"EDM2UNet with {len(self.channel_multipliers)} levels needs images or signals with sides divisible by "
                f"{factor}, got {x.shape}; pad or resize the data, or use fewer channel_multipliers."
            )
        check_attention(self, space[0], "in the middle")
