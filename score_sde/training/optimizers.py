"""The optimizer, an optax chain from the fields of `config.optimizer`."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import optax

from score_sde.building import check_names, closest
from score_sde.plain_config import is_number

OPTIMIZERS = {"adam": optax.adam, "adamw": optax.adamw, "radam": optax.radam, "lion": optax.lion, "sgd": optax.sgd}
SCHEDULES = ("constant", "cosine", "inverse_sqrt")


def learning_rate_schedule(
    learning_rate: float,
    schedule: str = "constant",
    warmup_steps: int = 0,
    decay_steps: int | None = None,
    final_fraction: float = 0.0,
) -> optax.Schedule:
    """Linear warm-up to `learning_rate` over `warmup_steps`, times a schedule of the step.

    "constant"; "cosine", down to `final_fraction` at `decay_steps`; "inverse_sqrt", 1/√max(step/decay_steps, 1)
    (Karras et al., arXiv 2312.02696, Eq. 67).

    Raises: ValueError for another schedule, or one without its decay_steps, or numbers out of range.
    """
    if schedule not in SCHEDULES:
        raise ValueError(
            f"optimizer.schedule needs one of {SCHEDULES}, got {schedule!r}.{closest(str(schedule), SCHEDULES)}"
        )
    if not (is_number(learning_rate) and learning_rate > 0):
        raise ValueError(f"optimizer.learning_rate needs a number > 0, got {learning_rate!r}.")
    if not (is_number(warmup_steps) and warmup_steps >= 0):
        raise ValueError(f"optimizer.schedule.warmup_steps needs a number >= 0, got {warmup_steps!r}.")
    if schedule != "constant" and not (is_number(decay_steps) and decay_steps >= 1):
        raise ValueError(f"optimizer.schedule={schedule!r} needs decay_steps >= 1, got {decay_steps!r}.")

    def inverse_sqrt(step):
        return learning_rate / jnp.sqrt(jnp.maximum(step / decay_steps, 1.0))

    main = {
        "constant": optax.constant_schedule(learning_rate),
        "cosine": optax.cosine_decay_schedule(learning_rate, decay_steps or 1, final_fraction),
        "inverse_sqrt": inverse_sqrt,
    }[schedule]
    return lambda step: main(step) * jnp.minimum((step + 1) / max(warmup_steps, 1), 1.0)


def build_optimizer(
    name: str = "adam",
    learning_rate: float = 2e-4,
    schedule: Mapping[str, Any] | None = None,
    clip_norm: float | None = 1.0,
    **fields: Any,
) -> optax.GradientTransformation:
    """clip by global norm -> the optimizer `name` with its own `fields`.

    `schedule` holds the fields of `learning_rate_schedule` besides the learning rate. The schedule counts updates.

    Raises: ValueError for an unknown optimizer or field, or a number out of range.
    """
    if name not in OPTIMIZERS:
        raise ValueError(
            f"optimizer.name needs one of {sorted(OPTIMIZERS)}, got {name!r}.{closest(str(name), [*OPTIMIZERS])}"
        )
    own = _parameters(OPTIMIZERS[name])
    check_names(
        "optimizer", fields, ["name", "learning_rate", "schedule", "clip_norm", "accumulation_steps", *own], repr(name)
    )
    check_names("optimizer.schedule", schedule or {}, _parameters(learning_rate_schedule))
    if not (clip_norm is None or (is_number(clip_norm) and clip_norm > 0)):
        raise ValueError(f"optimizer.clip_norm needs a number > 0, or None not to clip, got {clip_norm!r}.")
    rate = learning_rate_schedule(learning_rate, **(schedule or {}))
    clip = optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm)
    return optax.chain(clip, OPTIMIZERS[name](rate, **fields))


def _parameters(function: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "learning_rate"]
