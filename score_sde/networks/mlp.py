"""The residual multilayer perceptron, for points [b, d]."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from score_sde.networks.conditions import HasNull, check_kinds
from score_sde.networks.embeddings import Embedding
from score_sde.networks.fields import check_at_least, check_blocks, check_choice, check_shared
from score_sde.networks.layers import Dropout, dense

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "swish": jax.nn.swish,
    "gelu": jax.nn.gelu,
    "relu": jax.nn.relu,
    "softplus": jax.nn.softplus,
    "tanh": jnp.tanh,
}


class MLP(HasNull, nn.Module):
    """F(x, c_noise, condition): `[b, d]` to `[b, out_features]` in float32, through `depth` residual blocks.

        h₀ = W x;   h ← h + V a(U a(h) + A emb);   F = O a(h)

    V and O start near zero, so F starts near zero. W starts with a variance of 1/d, so h₀ is as
    large as x. With the rule of the other layers, h₀ would be √(2d/(d + width)) times as large.
    Then thousands of steps did not find a few modes in the plane.

    Attributes:
      width: the number of features of h and of the embedding.
      depth: the number of residual blocks.
      activation: a; "swish", "gelu", "relu", "softplus" or "tanh".
      noise_embedding: "sinusoidal" (labels of about 0 … 1000) or "fourier" (labels of about −10 …
        10).
      fourier_scale: the standard deviation of the Fourier frequencies.
      dropout: the dropout rate before V while training.
      num_classes: 0 for none. The label `num_classes` is the learned null class. In a config, None
        takes the number of the data.
      embedding_dim: the width of the condition "embedding", 0 for none.
      conditions: further conditions by name, all of kind "vector". In a config, None takes the
        conditions of the data.
      out_features: None for as many as x has.
      dtype: "float32" or "bfloat16", for the computation. Parameters and the output layer are
        float32.
    """

    width: int = 128
    depth: int = 3
    activation: str = "swish"
    noise_embedding: str = "sinusoidal"
    fourier_scale: float = 1.0
    dropout: float = 0.0
    num_classes: int | None = 0
    embedding_dim: int | None = 0
    conditions: Mapping[str, str] | None = None
    out_features: int | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        check_shared(self)
        check_kinds(self, ("vector",))
        check_choice(self, "activation", tuple(ACTIVATIONS))
        check_at_least(self, 1, "width")
        check_blocks(self, "depth")
        if self.out_features is not None:
            check_at_least(self, 1, "out_features")
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b *shape"],
        noise_label: Float[Array, " b"],
        condition: Mapping[str, Array] | None = None,
        train: bool = False,
    ) -> Float[Array, "b out"]:
        if x.ndim != 2:
            raise ValueError(
                f"MLP needs points [b, d], got {x.shape}; use UNet for images and signals, or flatten them."
            )
        activation = ACTIVATIONS[self.activation]
        emb, _ = Embedding(
            num_features=self.width,
            width=self.width,
            noise_embedding=self.noise_embedding,
            fourier_scale=self.fourier_scale,
            num_classes=self.num_classes,
            embedding_dim=self.embedding_dim,
            conditions=self.conditions,
            dtype=self.dtype,
            name="embedding",
        )(noise_label, condition, x)
        h = nn.Dense(self.width, dtype=self.dtype, kernel_init=nn.initializers.lecun_normal(), name="input")(x)
        for i in range(self.depth):
            r = dense(self.width, self.dtype, f"block_{i}_in")(activation(h))
            r = activation(r + dense(self.width, self.dtype, f"block_{i}_embedding")(emb))
            r = Dropout(self.dropout)(r, deterministic=not train)
            h = h + dense(self.width, self.dtype, f"block_{i}_out", scale=0.0)(r)
        return dense(self.out_features or x.shape[-1], "float32", "output", scale=0.0)(activation(h))

    @staticmethod
    def tensor_axis(path: tuple[str, ...]) -> int | None:
        """The axis of the hidden features: columns of U and A, rows of V.

        So a block needs one sum over devices.

        Source: Shoeybi et al., arXiv 1909.08053, Sec. 3.
        """
        layer, array = path[-2:]
        if layer.startswith("block_") and layer.endswith(("_in", "_embedding")):
            return {"kernel": 1, "bias": 0}[array]
        return 0 if layer.startswith("block_") and layer.endswith("_out") and array == "kernel" else None
