"""The U-Net of DDPM, DDPM++, NCSN++ and ADM, for images and signals of any size and number of channels.

Levels are numbered downwards from the full resolution, level 0. Level i has the resolution 1 / 2^i
and channels · channel_multipliers[i] features. `h` is the running array, and `skips` are the arrays
that the encoder passes to the decoder.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from score_sde.networks.attention import ATTENTION, AttentionBlock
from score_sde.networks.blocks import (
    NONLINEARITIES,
    RESAMPLE,
    ResamplingConvolution,
    ResidualBlock,
    before_doubling,
    before_halving,
)
from score_sde.networks.conditions import KINDS, Given, HasNull, check_channels, check_kinds
from score_sde.networks.cross_attention import CrossAttentionBlock
from score_sde.networks.embeddings import LABEL_AT, Embedding
from score_sde.networks.fields import (
    as_tuples,
    check_at_least,
    check_attention,
    check_blocks,
    check_choice,
    check_shared,
)
from score_sde.networks.layers import GroupNorm, conv, dense, wide
from score_sde.networks.remat import REMAT, kept
from score_sde.networks.resample import downsample, upsample

RESAMPLE_BY = ("block", "convolution", "filter")
DOWNSAMPLE_PADDING = ("end", "both")
PROGRESSIVE = ("none", "skip", "residual")
PROGRESSIVE_COMBINE = ("sum", "cat")
DECODER_ATTENTION = ("level", "block")

CHOICES = {
    "decoder_attention": DECODER_ATTENTION,
    "attention": ATTENTION,
    "resample_by": RESAMPLE_BY,
    "downsample_padding": DOWNSAMPLE_PADDING,
    "progressive_input": PROGRESSIVE,
    "progressive_combine": PROGRESSIVE_COMBINE,
    "progressive_output": PROGRESSIVE,
    "nonlinearity": tuple(NONLINEARITIES),
    "label_at": LABEL_AT,
    "remat": REMAT,
}

Features = Float[Array, "b ..."]
Emb = Float[Array, "b e"] | None


class Inputs(NamedTuple):
    """What every level takes beside h: the embedding of noise level and vectors, and the conditions."""

    emb: Emb
    given: Given


class UNet(HasNull, nn.Module):
    """F(x, c_noise, condition): `[b, *space, c]` to `[b, *space, out_channels]` in float32. The defaults are DDPM++.

    Attributes:
      channels: the number of features at the full resolution, before multiplication.
      channel_multipliers: one factor per level. Each level after the first halves every side.
      blocks_per_level: the number of residual blocks per level of the encoder. The decoder has one
        more.
      attention_resolutions: heights (or lengths) at which attention follows the encoder's blocks
        and the decoder's level. The middle of the lowest level always has attention.
      decoder_attention: "level" has one attention at the end of each such level of the decoder.
        "block" has attention after each block, as in ADM.
      num_heads: the number of heads of every attention.
      head_channels: the number of features of a head, in place of num_heads. None keeps num_heads.
      attention: "plain", or "fused" for cuDNN's kernel, which has no Jacobian-vector products.
      resample_by: the operation that halves and doubles. "block" is a residual block that resamples
        inside (BigGAN's). "convolution" is DDPM's single convolution, with a seventh less FLOPs.
        "filter" is the filter alone.
      resample_taps: the filter that halves and doubles. (1, 1) is plain (and no filter before a
        convolution that halves). (1, 3, 3, 1) is the FIR filter of NCSN++.
      downsample_padding: the place of the zeros around a plain convolution that halves. "end" is
        the far end of each axis, as in DDPM. "both" is both ends, as in guided-diffusion.
      progressive_input: "skip" adds a 1×1 convolution of the downsampled x after each halving.
        "residual" adds a chain of strided convolutions of x. "none" adds nothing.
      progressive_combine: the way that the progressive input "skip" joins the features: their "sum",
        or "cat", which concatenates both.
      progressive_output: "skip" sums an output from each level. "residual" is a chain of features.
        "none" is neither.
      skip_rescale: whether every sum of two branches is divided by √2.
      skip_projection: whether a residual block that resamples has a 1×1 convolution in its
        shortcut, also where the number of channels stays. ADM has none.
      scale_shift: whether the embedding scales and shifts after each block's second norm, as in
        ADM, in place of an addition before the norm.
      norm_groups: the number of groups of every group norm. None is min(32, a quarter of its
        channels), as in DDPM++ and NCSN++. DDPM has 32, which differs below 128 channels.
      norm_epsilon: the number that every group norm adds to the variance.
      nonlinearity: "swish", "relu", "elu" or "leaky_relu" (with slope 0.2).
      noise_embedding: "sinusoidal" (labels of about 0 … 1000), "sinusoidal_open" (the same without
        the lowest frequency 1e-4, as in ADM) or "fourier" (labels of about −10 … 10).
      noise_conditional: whether the network is told the noise level at all.
      fourier_scale: the standard deviation of the Fourier frequencies.
      dropout: the dropout rate in the residual blocks while training.
      num_classes: 0 for none. The label `num_classes` is the learned null class. In a config, None
        takes the number of the data.
      label_at: the place where the label enters: the noise "features", or the "output" of the
        embedding, before its last nonlinearity, as in ADM.
      embedding_dim: the width of the condition "embedding", 0 for none.
      conditions: further conditions by name, "vector" (as the embedding), "tokens" (for
        cross-attention) or "image" (channels beside x). In a config, None takes the conditions of
        the data.
      cross_attention_resolutions: heights (or lengths) at which attention to the tokens follows
        each block of the encoder and each level of the decoder. The middle always has it. None is
        attention_resolutions. It matters only for conditions of kind "tokens".
      out_channels: None for as many as x has.
      dtype: "float32" or "bfloat16", for the computation. Parameters, statistics of the group norm,
        softmax and the output layer are always float32. "float64" is for comparisons.
      remat: the values that the backward pass computes again, to save memory. "none" keeps all
        values. "dots" keeps the outputs of matrix products and convolutions, and recomputes norms,
        swishes and dropout at almost no cost. "blocks" keeps only the input of each residual and
        attention block, for about a fifth more FLOPs. Parameters and results are the same, so a
        checkpoint fits any of them.

    Source: score_sde, arXiv 2011.13456, App. H and its code; DDPM, arXiv 2006.11239; ADM, arXiv
      2105.05233.
    """

    channels: int = 128
    channel_multipliers: Sequence[int] = (1, 2, 2, 2)
    blocks_per_level: int = 4
    attention_resolutions: Sequence[int] = (16,)
    decoder_attention: str = "level"
    num_heads: int = 1
    head_channels: int | None = None
    attention: str = "plain"
    resample_by: str = "block"
    resample_taps: Sequence[int | float] = (1, 1)
    downsample_padding: str = "end"
    progressive_input: str = "none"
    progressive_combine: str = "sum"
    progressive_output: str = "none"
    skip_rescale: bool = True
    skip_projection: bool = True
    scale_shift: bool = False
    norm_groups: int | None = None
    norm_epsilon: float = 1e-6
    nonlinearity: str = "swish"
    noise_embedding: str = "sinusoidal"
    noise_conditional: bool = True
    fourier_scale: float = 16.0
    dropout: float = 0.1
    num_classes: int | None = 0
    label_at: str = "features"
    embedding_dim: int | None = 0
    conditions: Mapping[str, str] | None = None
    cross_attention_resolutions: Sequence[int] | None = None
    out_channels: int | None = None
    dtype: str = "float32"
    remat: str = "none"

    def __post_init__(self) -> None:
        as_tuples(self, "channel_multipliers", "attention_resolutions", "resample_taps")
        if self.cross_attention_resolutions is not None:
            as_tuples(self, "cross_attention_resolutions")
            check_at_least(self, 1, "cross_attention_resolutions")
        check_shared(self)
        check_kinds(self, KINDS)
        for name, allowed in CHOICES.items():
            check_choice(self, name, allowed)
        check_at_least(self, 1, "channels", "channel_multipliers", "attention_resolutions", "num_heads")
        self._check_heads()
        check_blocks(self, "blocks_per_level")
        if self.out_channels is not None:
            check_at_least(self, 1, "out_channels")
        self._check_groups()
        if not self.noise_conditional and (self.num_classes or self.embedding_dim or self.conditions):
            raise ValueError(
                f"UNet with noise_conditional=False takes no conditions, got num_classes={self.num_classes}, "
                f"embedding_dim={self.embedding_dim}, conditions={self.conditions}; leave them out."
            )
        if not self.channel_multipliers:
            raise ValueError("UNet needs at least one level, got channel_multipliers=(); give one factor per level.")
        if len(self.resample_taps) < 2 or sum(self.resample_taps) == 0:
            raise ValueError(
                f"UNet needs resample_taps of length 2 or more with a sum other than 0, got {self.resample_taps}; "
                "(1, 1) is plain, (1, 3, 3, 1) is NCSN++'s."
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
        self._check_input(x)
        inputs = Inputs(None, Given())
        if self.noise_conditional:
            inputs = Inputs(*self._embedding()(noise_label, condition, x))
        check_channels(self, "input", x, inputs.given)
        skips = self._encode(inputs.given.beside(x), inputs, train)
        h = self._middle(skips[-1], inputs, train)
        out_channels = self.out_channels or x.shape[-1]
        h, output = self._decode(h, skips, inputs, train, out_channels)
        if self.progressive_output == "skip" and output is not None:
            return output
        return self._output(h, out_channels, "output")

    def _embedding(self) -> Embedding:
        return Embedding(
            num_features=2 * self.channels if self.noise_embedding == "fourier" else self.channels,
            width=4 * self.channels,
            noise_embedding=self.noise_embedding,
            fourier_scale=self.fourier_scale,
            num_classes=self.num_classes,
            embedding_dim=self.embedding_dim,
            conditions=self.conditions,
            token_width=4 * self.channels,
            dtype=self.dtype,
            label_at=self.label_at,
            nonlinearity=NONLINEARITIES[self.nonlinearity],
            name="embedding",
        )

    def _encode(self, x: Features, inputs: Inputs, train: bool) -> list[Features]:
        """h after the first convolution, after every block, and after every halving."""
        pyramid, skips = x, [conv(self.channels, x.ndim - 2, self.dtype, "input")(x)]
        for level, multiplier in enumerate(self.channel_multipliers):
            for i in range(self.blocks_per_level):
                block = self._block(f"encoder_{level}_block_{i}", self.channels * multiplier)
                h = self._attend(block(skips[-1], inputs.emb, train), f"encoder_{level}_attention_{i}")
                skips.append(self._attend_tokens(h, inputs.given, f"encoder_{level}_cross_attention_{i}"))
            if level + 1 < len(self.channel_multipliers):
                h = self._resample(skips[-1], inputs.emb, train, f"encoder_{level}_down", "down")
                pyramid, h = self._take_input(pyramid, h, f"encoder_{level}_input")
                skips.append(h)
        return skips

    def _middle(self, h: Features, inputs: Inputs, train: bool) -> Features:
        h = self._block("middle_block_0", h.shape[-1])(h, inputs.emb, train)
        h = self._attention("middle_attention", h.shape[-1])(h)
        h = self._cross_attention("middle_cross_attention", h, inputs.given)
        return self._block("middle_block_1", h.shape[-1])(h, inputs.emb, train)

    def _decode(
        self, h: Features, skips: list[Features], inputs: Inputs, train: bool, out_channels: int
    ) -> tuple[Features, Features | None]:
        """(h at the full resolution, the sum of the levels' outputs with a progressive output)."""
        output = None
        for level, multiplier in reversed(list(enumerate(self.channel_multipliers))):
            for i in range(self.blocks_per_level + 1):
                block = self._block(f"decoder_{level}_block_{i}", self.channels * multiplier)
                h = block(jnp.concatenate([h, skips.pop()], axis=-1), inputs.emb, train)
                if self.decoder_attention == "block":
                    h = self._attend(h, f"decoder_{level}_attention_{i}")
            if self.decoder_attention == "level":
                h = self._attend(h, f"decoder_{level}_attention")
            h = self._attend_tokens(h, inputs.given, f"decoder_{level}_cross_attention")
            h, output = self._give_output(h, output, out_channels, f"decoder_{level}_output")
            if level > 0:
                h = self._resample(h, inputs.emb, train, f"decoder_{level}_up", "up")
        return h, output

    def _block(self, name: str, features: int, resample: str = "none") -> nn.Module:
        block = ResidualBlock
        if self.remat != "none":
            block = nn.remat(ResidualBlock, policy=kept(self.remat), static_argnums=(3,))  # 3: train
        return block(
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
            self.nonlinearity,
            name=name,
        )

    def _resample(self, h: Features, emb: Emb, train: bool, name: str, direction: str) -> Features:
        if self.resample_by == "filter":
            return RESAMPLE[direction](h, self.resample_taps)
        if self.resample_by == "convolution":
            taps, padding = self.resample_taps, self.downsample_padding
            return ResamplingConvolution(direction, taps, self.dtype, padding, name=name)(h)
        return self._block(name, h.shape[-1], direction)(h, emb, train)

    def _attention(self, name: str, features: int) -> nn.Module:
        block = AttentionBlock if self.remat == "none" else nn.remat(AttentionBlock, policy=kept(self.remat))
        heads = self.num_heads if self.head_channels is None else features // self.head_channels
        fields = (self.skip_rescale, self.dtype, self.norm_groups, heads, self.attention, self.norm_epsilon)
        return block(*fields, name=name)

    def _cross_attention(self, name: str, h: Features, given: Given) -> Features:
        if given.tokens is None or given.mask is None:
            return h
        block = CrossAttentionBlock
        if self.remat != "none":
            block = nn.remat(CrossAttentionBlock, policy=kept(self.remat))
        return block(self.skip_rescale, self.dtype, self.norm_groups, name=name)(h, given.tokens, given.mask)

    def _attend(self, h: Features, name: str) -> Features:
        if h.shape[1] not in self.attention_resolutions:
            return h
        return self._attention(name, h.shape[-1])(h)

    def _attend_tokens(self, h: Features, given: Given, name: str) -> Features:
        heights = self.cross_attention_resolutions
        heights = self.attention_resolutions if heights is None else heights
        return self._cross_attention(name, h, given) if h.shape[1] in heights else h

    def _output(self, h: Features, features: int, name: str, scale: float = 0.0) -> Features:
        act, dtype = NONLINEARITIES[self.nonlinearity], wide(self.dtype)
        h = GroupNorm(act, self.norm_epsilon, dtype, self.norm_groups, name=f"{name}_norm")(h)
        return conv(features, h.ndim - 2, dtype, name, scale=scale)(h)

    def _sum(self, a: Features, b: Features) -> Features:
        return (a + b) / math.sqrt(2) if self.skip_rescale else a + b

    def _take_input(self, pyramid: Features, h: Features, name: str) -> tuple[Features, Features]:
        """(the input at this resolution, h with the downsampled input added)."""
        features, rank = h.shape[-1], h.ndim - 2
        if self.progressive_input == "skip":
            pyramid = downsample(pyramid, self.resample_taps)
            term = dense(features, self.dtype, name)(pyramid)
            h = jnp.concatenate([term, h], axis=-1) if self.progressive_combine == "cat" else h + term
        if self.progressive_input == "residual":
            before = before_halving(pyramid, self.resample_taps)
            pyramid = h = self._sum(conv(features, rank, self.dtype, name, stride=2)(before), h)
        return pyramid, h

    def _give_output(
        self, h: Features, output: Features | None, out_channels: int, name: str
    ) -> tuple[Features, Features | None]:
        """(h, the output at this resolution with the contribution of this level added)."""
        features, rank = h.shape[-1], h.ndim - 2
        if self.progressive_output == "skip":
            term = self._output(h, out_channels, name)
            return h, term if output is None else upsample(output, self.resample_taps) + term
        if self.progressive_output == "residual":
            if output is None:
                return h, self._output(h, features, name, scale=1.0)
            before, padding = before_doubling(output, self.resample_taps)
            h = self._sum(conv(features, rank, self.dtype, name, padding=padding)(before), h)
            return h, h
        return h, None

    def _check_heads(self) -> None:
        """Raises ValueError where the heads do not divide the features of the lowest level, which has attention."""
        features = self.channels * (self.channel_multipliers or (1,))[-1]
        if self.head_channels is not None:
            check_at_least(self, 1, "head_channels")
        divisor, name = (
            (self.num_heads, "num_heads") if self.head_channels is None else (self.head_channels, "head_channels")
        )
        if features % divisor:
            raise ValueError(
                f"UNet needs {name} that divides the {features} features of the lowest level, got {divisor}; choose a "
                "divisor, or other channels."
            )

    def _check_groups(self) -> None:
        """Raises ValueError where norm_groups does not divide the features of a level."""
        if self.norm_groups is None:
            return
        check_at_least(self, 1, "norm_groups")
        features = sorted({self.channels, *(self.channels * multiplier for multiplier in self.channel_multipliers)})
        if any(number % self.norm_groups for number in features):
            raise ValueError(
                f"UNet needs norm_groups that divides the features of every level, {features}, got {self.norm_groups}; "
                "None chooses for each."
            )

    def _check_input(self, x: Features) -> None:
        """Raises ValueError where x has no spatial axis, or a side that the levels cannot halve or attend to."""
        factor = 2 ** (len(self.channel_multipliers) - 1)
        space = x.shape[1:-1]
        if not space:
            raise ValueError(f"UNet needs images [b, h, w, c] or signals [b, l, c], got {x.shape}; use MLP for points.")
        if any(side % factor for side in space):
            raise ValueError(
                f"UNet with {len(self.channel_multipliers)} levels needs sides divisible by {factor}, got {space}; "
                "pad or resize the data, or use fewer channel_multipliers."
            )
        check_attention(self, space[0], "in the middle")
        if self.cross_attention_resolutions is not None:
            check_attention(self, space[0], "in the middle", "cross_attention_resolutions")


NCSNpp = functools.partial(UNet, resample_taps=(1, 3, 3, 1), progressive_input="residual", noise_embedding="fourier")
DDPM = functools.partial(
    UNet,
    blocks_per_level=2,
    decoder_attention="block",
    resample_by="convolution",
    skip_rescale=False,
    norm_groups=32,
)
ADM = functools.partial(
    UNet,
    channels=192,
    channel_multipliers=(1, 2, 3, 4),
    blocks_per_level=3,
    attention_resolutions=(32, 16, 8),
    decoder_attention="block",
    head_channels=64,
    skip_rescale=False,
    skip_projection=False,
    scale_shift=True,
    norm_epsilon=1e-5,
    noise_embedding="sinusoidal_open",
    label_at="output",
)
