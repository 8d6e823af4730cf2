"""The inputs of a network beside x, as one vector per example: the noise level and the conditions."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from score_sde.networks.layers import dense

NOISE_EMBEDDINGS = ("sinusoidal", "fourier")
MAX_PERIOD = 10_000.0


def sinusoidal(noise_label: Float[Array, " b"], num_features: int) -> Float[Array, "b num_features"]:
    """[sin(ω c), cos(ω c)] with ω falling geometrically from 1 to 1e-4, for labels that run over 0 … 1000.

    Source: Vaswani et al., arXiv 1706.03762, with the end point that DDPM's code (arXiv 2006.11239)
      includes.
    """
    half = num_features // 2
    step = -math.log(MAX_PERIOD) / max(half - 1, 1)
    angle = noise_label[:, None] * jnp.exp(step * jnp.arange(half, dtype=jnp.float32))[None]
    features = jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
    return jnp.pad(features, ((0, 0), (0, num_features % 2)))


def null_condition(condition: Mapping[str, Array], num_classes: int | None) -> dict[str, Array]:
    """The condition that means "no condition", in the same shapes.

    For "label" it is the class after the last class. For all other conditions it is zeros.
    """
    return {
        name: jnp.full_like(values, num_classes or 0) if name == "label" else jnp.zeros_like(values)
        for name, values in condition.items()
    }


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
        angle = noise_label[:, None] * frequencies[None] * (2 * math.pi)
        return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


class Embedding(nn.Module):
    """emb = swish(W₁ swish(W₀ (noise features + label vector + W embedding) + b₀) + b₁), `[b, width]`.

    The condition "label" `[b]` selects a learned vector. 0 … num_classes − 1 are the classes, and
    num_classes is the null class, for examples without a label. The condition "embedding" `[b,
    embedding_dim]` enters through a linear map without bias, so zeros mean "none". A network takes
    exactly the conditions that its fields declare.

    Source: the noise embedding of score_sde, arXiv 2011.13456. Conditions enter where EDM's do,
      arXiv 2206.00364.
    """

    num_features: int
    width: int
    noise_embedding: str = "sinusoidal"
    fourier_scale: float = 16.0
    num_classes: int = 0
    embedding_dim: int = 0
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, noise_label: Float[Array, " b"], condition: Mapping[str, Array] | None
    ) -> Float[Array, "b width"]:
        condition = condition or {}
        self._check(condition, noise_label.shape[0])
        if self.noise_embedding == "fourier":
            features = FourierFeatures(self.num_features, self.fourier_scale, name="fourier")(noise_label)
        else:
            features = sinusoidal(noise_label, self.num_features)
        if self.num_classes:
            features += self._label_vector(condition["label"], features.shape[-1])
        if self.embedding_dim:
            embedding = dense(features.shape[-1], "float32", "embedding", use_bias=False)
            features += embedding(condition["embedding"].astype(jnp.float32))
        h = nn.swish(dense(self.width, self.dtype, "dense_0")(features))
        return nn.swish(dense(self.width, self.dtype, "dense_1")(h))

    def _label_vector(self, label: Int[Array, " b"], width: int) -> Float[Array, "b width"]:
        """Row `label` of a learned table, or NaN for a label out of range.

        The table is drawn from N(0, 1), which has the size of the noise features.
        """
        table = self.param("label", nn.initializers.normal(1.0), (self.num_classes + 1, width))
        label = jnp.where(label < 0, self.num_classes + 1, label)  # a negative index would count from the end
        return jnp.take(table, label, axis=0, mode="fill", fill_value=jnp.nan)

    def _check(self, condition: Mapping[str, Array], batch: int) -> None:
        """Raises ValueError unless the condition holds exactly what the fields declare, in the declared shape."""
        shapes: dict[str, tuple[int, ...]] = {}
        if self.num_classes:
            shapes["label"] = (batch,)
        if self.embedding_dim:
            shapes["embedding"] = (batch, self.embedding_dim)
        if set(condition) != set(shapes):
            raise ValueError(
                f"A network with num_classes={self.num_classes}, embedding_dim={self.embedding_dim} needs the "
                f"conditions {sorted(shapes)}, got {sorted(condition)}; pass exactly those, "
                "or set the network's fields to what the data has (label num_classes stands for no label)."
            )
        for name, shape in shapes.items():
            if condition[name].shape != shape:
                raise ValueError(
                    f'The condition "{name}" needs shape {shape}, got {condition[name].shape}; reshape it, or set '
                    f"embedding_dim to its width."
                )
        if self.num_classes and not jnp.issubdtype(condition["label"].dtype, jnp.integer):
            raise ValueError(
                f'The condition "label" needs integers 0 … {self.num_classes}, got {condition["label"].dtype}; cast it '
                'to int32 (a one-hot array is argmax-ed first, a soft one is an "embedding").'
            )
