"""Exponential moving averages of the parameters."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from score_sde.training.state import Params


def ema_decay(
    step: Int[Array, ""], images_per_update: int, half_life_kimg: float, rampup_ratio: float | None
) -> Float[Array, ""]:
    """β = (1/2)^(images_per_update / half-life in images).

    The half-life is at most rampup_ratio · the images seen by `step`. rampup_ratio = None is a
    constant half-life. The decay 0.9999 at batch 128 of the 2021 paper is half_life_kimg = 887.

    Source: Karras et al., arXiv 2206.00364, App. F.2 and its training code (500 kimg, 0.05).
    """
    half_life = jnp.asarray(half_life_kimg * 1000.0)
    if rampup_ratio is not None:
        half_life = jnp.minimum(half_life, rampup_ratio * step.astype(jnp.float32) * images_per_update)
    return 0.5 ** (images_per_update / jnp.maximum(half_life, 1e-8))


def update_ema(average: Params, params: Params, decay: Float[Array, ""]) -> Params:
    """β average + (1 − β) params."""
    return jax.tree.map(lambda a, p: a + (1 - decay) * (p - a), average, params)
