"""The training state: the values that change from step to step, without any configuration."""

from collections.abc import Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int

from score_sde import parallel
from score_sde.tasks import Task
from score_sde.training.optimizers import Optimizer, OptState

Params = Any
RAW = "none"  # in place of the name of an average: the parameters themselves


class TrainState(NamedTuple):
    """The training state.

    Attributes:
      step: the number of batches seen.
      ema: half-life (as a string, in thousands of images) -> averaged parameters.
    """

    step: Int[Array, ""]
    params: Params
    ema: dict[str, Params]
    opt_state: OptState


def create_state(
    params: Params, optimizer: Optimizer | optax.GradientTransformation, half_lives_kimg: tuple[float, ...]
) -> TrainState:
    """The state before the first step. Every average starts at the parameters."""
    # Copies, because the step donates the state, and a buffer cannot be donated twice.
    ema = {ema_name(half_life): jax.tree.map(jnp.copy, params) for half_life in half_lives_kimg}
    return TrainState(jnp.zeros((), jnp.int32), params, ema, optimizer.init(params))


def ema_name(half_life_kimg: float) -> str:
    """The key of an average in `TrainState.ema`: the half-life as a text, such as "500" for 500 thousand images."""
    short = f"{half_life_kimg:g}"
    return short if float(short) == half_life_kimg else repr(float(half_life_kimg)).removesuffix(".0")


def with_averages(like: TrainState, names: Collection[str]) -> TrainState:
    """The shapes and shardings of a state like `like` with the averages of these names.

    Averages that `like` has too come first.
    """
    ordered = [name for name in like.ema if name in names] + sorted(set(names) - set(like.ema))
    return like._replace(ema=dict.fromkeys(ordered, like.params))


def state_sharding(state: Any, task: Task, mesh: Mesh, *, over_fsdp: bool = True) -> Any:
    """The sharding of each array of a state, or of a part of it.

    Large arrays are divided over fsdp, and over tensor where the task declares it by
    `tensor_axis(path)`. Averages and moments carry the names of their parameters, and have the same
    sharding.
    """
    return parallel.tree_sharding(state, mesh, task.tensor_axis, over_fsdp=over_fsdp)


def pick_params(state: TrainState, average: str | None) -> Params:
    """The average with this half-life (in thousands of images; None: the shortest), or the raw parameters ("none").

    Raises: ValueError for a half-life that was not kept.
    """
    return state.ema.get(average_name(state.ema, average), state.params)


def average_name(names: Collection[str], wanted: str | None) -> str:
    """The name of an average, however its half-life is written: "500.0" is "500".

    None is the average with the shortest half-life. The order of the averages is not a choice: JAX
    sorts them as texts, where "1000" stands before "500". "none" names the raw parameters, which
    None takes where no average was kept.

    Raises: ValueError for a half-life that was not kept.
    """
    if wanted == RAW or (wanted is None and not names):
        return RAW
    if wanted is None:
        return min(names, key=float)
    for name in names:
        if name == wanted or (_is_number(wanted) and float(name) == float(wanted)):
            return name
    raise ValueError(
        f"average (--ema) needs one of {[*names, RAW]} (half-lives in thousands of images), got {wanted!r}."
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
