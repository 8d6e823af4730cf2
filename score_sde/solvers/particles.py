"""The particles of an image: weights, resampling and selection.

Each image of a batch has k particles of its own, so that it does not depend on its neighbours.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

Resampling = Literal["systematic", "stratified", "multinomial", "residual"]  # the rules of blackjax


def resampled(
    keys: Key[Array, " b"], log_weights: Float[Array, "b k"], threshold: Float[Array, ""] | float, rule: Resampling
) -> tuple[Int[Array, "b k"], Float[Array, "b k"]]:
    """(the particle that takes each place, its log-weight).

    blackjax's `rule` draws the particles of images whose effective number of particles, (Σw)²/Σw²,
    is below `threshold` · k. Their weights are then equal. Other images keep their particles and
    weights. The drawn particles are in the order of their old places, so one of them alone is not
    drawn by its weight.
    """
    from blackjax.smc import resampling  # imported here, because the import is slow and few solves need it

    number, draw = log_weights.shape[1], getattr(resampling, rule)
    weights = jax.nn.softmax(log_weights, axis=1)
    few = (1 / jnp.sum(weights**2, axis=1) < threshold * number)[:, None]
    drawn = jax.vmap(lambda key, row: draw(key, row, number))(keys, weights).astype(jnp.int32)
    return jnp.where(few, drawn, jnp.arange(number, dtype=jnp.int32)[None]), jnp.where(few, 0.0, log_weights)


def take(values: Float[Array, "b k *shape"], index: Int[Array, "b n"]) -> Float[Array, "b n *shape"]:
    """The particles of each image at its indices."""
    return jnp.take_along_axis(values, index.reshape(*index.shape, *(1,) * (values.ndim - 2)), axis=1)
