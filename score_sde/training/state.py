"""What training carries from step to step, and nothing that is configured."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

Params = Any


class TrainState(NamedTuple):
    """step: number of batches seen; ema: half-life (as a string, in thousands of images) -> averaged parameters."""

    step: Int[Array, ""]
    params: Params
    ema: dict[str, Params]
    opt_state: optax.OptState


def create_state(
    params: Params, optimizer: optax.GradientTransformation, half_lives_kimg: tuple[float, ...]
) -> TrainState:
    """The state before the first step; every average starts at the parameters."""
    # Copies: the step donates the state, and no buffer can be donated twice.
    ema = {ema_name(half_life): jax.tree.map(jnp.copy, params) for half_life in half_lives_kimg}
    return TrainState(jnp.zeros((), jnp.int32), params, ema, optimizer.init(params))


def ema_name(half_life_kimg: float) -> str:
    """The key of an average in `TrainState.ema`: "500" for 500 thousand images."""
    return f"{half_life_kimg:g}"
