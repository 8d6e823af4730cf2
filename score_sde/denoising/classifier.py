"""A classifier of noisy data: p(label | x_t) at every noise level, for classifier guidance."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from score_sde.denoising.parameterizations import Parameterization
from score_sde.internal.broadcast import expand_like
from score_sde.internal.pytree import pytree, static
from score_sde.sdes.base import SDE, Time

Params = Mapping[str, Any]


@pytree
class Classifier:
    """A network, a parameterization and an SDE, without parameters. The output is the logits [b, classes] of x_t.

    The parameterization gives the inputs of the network, c_in(t) x_t and c_noise(t). The output of
    the network is not decoded.

    Source: Dhariwal and Nichol, arXiv 2105.05233, Sec. 4; Song et al., arXiv 2011.13456, Sec. 5 and
      App. I.
    """

    sde: SDE
    parameterization: Parameterization
    network: nn.Module = static()

    def init(self, key: Key[Array, ""], batch: Mapping[str, Any]) -> Params:
        """Draws parameters for inputs like `batch["x"]`. Only the shape and dtype of `batch["x"]` matter."""
        x = jnp.zeros(batch["x"].shape, jnp.float32)
        return {"network": self.network.init(key, x, jnp.zeros(x.shape[:1], jnp.float32), {})["params"]}

    def bind(
        self, params: Params, *, train: bool = False, dropout_key: Key[Array, ""] | None = None
    ) -> "BoundClassifier":
        """Returns `classify(x, t) -> log-probabilities` with these parameters."""
        return BoundClassifier(self, params, dropout_key, train)


@pytree
class BoundClassifier:
    """classify(x, t) -> log p(label | x_t) [b, classes], in nats. `Classifier.bind` makes it."""

    classifier: Classifier
    params: Params
    dropout_key: Key[Array, ""] | None
    train: bool = static()

    @property
    def sde(self) -> SDE:
        """The SDE of the x_t that are classified."""
        return self.classifier.sde

    def __call__(self, x: Float[Array, "b *shape"], t: Time) -> Float[Array, "b classes"]:
        c_in, c_noise = self.classifier.parameterization.inputs(self.sde, t)
        rngs = None if self.dropout_key is None else {"dropout": self.dropout_key}
        logits: Any = self.classifier.network.apply(
            {"params": self.params["network"]},
            expand_like(c_in, x) * x,
            jnp.broadcast_to(c_noise, x.shape[:1]),
            {},
            self.train,
            rngs=rngs,
        )
        return jax.nn.log_softmax(logits.astype(jnp.float32))
