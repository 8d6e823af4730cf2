"""The inputs of a network beside x, as one vector per example: the noise level and the conditions."""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from score_sde.networks.conditions import Condition, Conditions, Given, frozen_kinds
from score_sde.networks.layers import dense

NOISE_EMBEDDINGS = ("sinusoidal", "sinusoidal_open", "fourier")
LABEL_AT = ("features", "output")
MAX_PERIOD = 10_000.0


def sinusoidal(
    noise_label: Float[Array, " b"], num_features: int, endpoint: bool = True
) -> Float[Array, "b num_features"]:
    """[sin(ω c), cos(ω c)] with ω falling geometrically from 1 to 1e-4, for labels that run over 0 … 1000.

    Without the `endpoint` the last ω is the one before 1e-4, as in the paper and in ADM.

    Source: Vaswani et al., arXiv 1706.03762, with the end point that DDPM's code (arXiv 2006.11239)
      includes.
    """
    half = num_features // 2
    step = -math.log(MAX_PERIOD) / max(half - int(endpoint), 1)
    angle = noise_label[:, None] * jnp.exp(step * jnp.arange(half, dtype=noise_label.dtype))[None]
    features = jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
    return jnp.pad(features, ((0, 0), (0, num_features % 2)))


class FourierFeatures(nn.Module):
    """[sin(2π ω c), cos(2π ω c)] with frequencies ω ~ N(0, scale²), drawn once and never trained.

    The frequencies are among the parameters, so a checkpoint contains them. They get no gradient.

    Source: Tancik et al., arXiv 2006.10739; scale 16 in NCSN++, arXiv 2011.13456.
    """

    num_features: int
    scale: float = 16.0

    @nn.compact
    def __call__(self, noise_label: Float[Array, " b"]) -> Float[Array, "b num_features"]:
        init = nn.initializers.normal(self.scale)
        frequencies = jax.lax.stop_gradient(self.param("frequencies", init, (self.num_features // 2,)))
        # This order of the products rounds as the published networks do. At ω c ~ 500 the rounding is
        # visible in the output.
        angle = noise_label[:, None] * frequencies[None].astype(noise_label.dtype) * (2 * math.pi)
        return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


class Embedding(nn.Module):
    """emb = swish(W₁ swish(W₀ (noise features + vectors of the conditions) + b₀) + b₁), `[b, width]`.

    It returns emb, and the conditions in the form in which the other layers use them. The fields
    that do not concern the noise are the fields of `Conditions`, whose parameters lie among the
    parameters of this module.

    Attributes:
      label_at: "features" adds the label vector to the noise features. "output" adds it before the
        last swish, as ADM does.
      nonlinearity: the function in place of swish.

    Source: the noise embedding of score_sde, arXiv 2011.13456. Vectors enter where EDM's do,
      arXiv 2206.00364.
    """

    num_features: int
    width: int
    noise_embedding: str = "sinusoidal"
    fourier_scale: float = 16.0
    num_classes: int | None = 0
    embedding_dim: int | None = 0
    conditions: Mapping[str, str] | None = None
    token_width: int = 0
    dtype: str = "float32"
    label_at: str = "features"
    nonlinearity: Callable[[Array], Array] = nn.swish

    def __post_init__(self) -> None:
        object.__setattr__(self, "conditions", frozen_kinds(self.conditions))
        super().__post_init__()

    @nn.compact
    def __call__(
        self, noise_label: Float[Array, " b"], condition: Condition | None, x: Float[Array, "b *shape"]
    ) -> tuple[Float[Array, "b width"], Given]:
        if self.noise_embedding == "fourier":
            features = FourierFeatures(self.num_features, self.fourier_scale, name="fourier")(noise_label)
        else:
            features = sinusoidal(noise_label, self.num_features, self.noise_embedding == "sinusoidal")
        conditions = Conditions(
            width=features.shape[-1],
            token_width=self.token_width,
            num_classes=self.num_classes or 0,
            embedding_dim=self.embedding_dim or 0,
            kinds=self.conditions,
            label_width=self.width if self.label_at == "output" else None,
            dtype=self.dtype,
        )
        nn.share_scope(self, conditions)  # parameters keep the names of earlier versions
        given = conditions(condition, x)
        h = self.nonlinearity(dense(self.width, self.dtype, "dense_0")(given.added_to(features)))
        h = dense(self.width, self.dtype, "dense_1")(h)
        if given.label is not None:
            h += given.label.astype(h.dtype)
        return self.nonlinearity(h), given
