"""A Gaussian mixture whose components have classes, as an exact conditional denoiser."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from score_sde.denoising.dynamics import Denoise
from score_sde.denoising.estimate import Estimate
from score_sde.internal.pytree import pytree, static
from score_sde.sdes.base import SDE, Time


@pytree
class ByClass(Denoise):
    """E[x0 | x_t, label] of p(x0 | label), the components of that class; the label after the last is all of them."""

    sde: SDE
    weights: Float[Array, " k"]
    means: Float[Array, "k d"]
    stds: Float[Array, "k d"]
    classes: Int[Array, " k"]
    condition: Mapping[str, Array] | None

    def with_condition(self, condition: Mapping[str, Array]) -> "ByClass":
        return dataclasses.replace(self, condition=condition)

    def null_condition(self) -> dict[str, Array]:
        return {"label": jnp.full_like(self.condition["label"], int(self.classes.max()) + 1)}

    def __call__(self, x: Float[Array, "b d"], t: Time) -> Estimate:
        alpha, sigma = (c.reshape(-1, 1, 1) for c in (self.sde.alpha(t), self.sde.sigma(t)))  # components: second axis
        label = self.condition["label"]
        counts = (self.classes[None] == label[:, None]) | (label[:, None] > self.classes.max())
        variance = alpha**2 * self.stds[None] ** 2 + sigma**2
        shift = x[:, None] - alpha * self.means[None]
        logits = jnp.log(self.weights)[None] - 0.5 * jnp.sum(shift**2 / variance + jnp.log(variance), axis=-1)
        share = jax.nn.softmax(jnp.where(counts, logits, -jnp.inf), axis=1)[..., None]
        x0 = jnp.sum(share * (self.means[None] + alpha * self.stds[None] ** 2 / variance * shift), axis=1)
        return Estimate(x0, jnp.sum(share * sigma * shift / variance, axis=1))


@pytree
class ExactClassifier:
    """log p(class | x_t) [b, classes] of the same mixture, of which it takes the arrays."""

    mixture: ByClass
    num_classes: int = static()

    def __call__(self, x: Float[Array, "b d"], t: Time) -> Float[Array, "b classes"]:
        m = self.mixture
        alpha, sigma = (c.reshape(-1, 1, 1) for c in (m.sde.alpha(t), m.sde.sigma(t)))
        variance = alpha**2 * m.stds[None] ** 2 + sigma**2
        squares = (x[:, None] - alpha * m.means[None]) ** 2 / variance
        log_joint = jnp.log(m.weights)[None] - 0.5 * jnp.sum(squares + jnp.log(variance), axis=-1)
        of_class = (m.classes[None] == jnp.arange(self.num_classes)[:, None])[None]
        by_class = jax.nn.logsumexp(jnp.where(of_class, log_joint[:, None], -jnp.inf), axis=-1)
        return by_class - jax.nn.logsumexp(log_joint, axis=-1, keepdims=True)
