"""The optimizer: an optax chain from the fields of `config.optimizer`.

Updates are counted from 0. The nth batch that is not skipped is update n − 1, and uses the
schedule's rate at n − 1.
"""

import bisect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from score_sde import parallel
from score_sde.config import Catalogues, Family, Schedule, checked_section, made, sections
from score_sde.internal.unit_kernel import UNIT_KERNEL, normalized

Path = tuple[str, ...]
OptState = Any  # optax's alias names a type that does not exist at run time, so it cannot be checked

OPTIMIZERS = {"adam": optax.adam, "adamw": optax.adamw, "radam": optax.radam, "lion": optax.lion, "sgd": optax.sgd}
OPTIMIZER = Family(OPTIMIZERS, num_args=1, ours=("mask",))  # the mask is `is_decayed`; the argument is the rate
# The last names of parameters on which weight decay does not act. "positions" and "context" are learned positions.
NOT_DECAYED = ("bias", "scale", "frequencies", UNIT_KERNEL, "positions", "context")
FIXED = (("fourier", "frequencies"), ("fourier", "phases"))  # the last two names of parameters that are never trained


class Optimizer(NamedTuple):
    """An optax transformation (`init`, `update`) with its `schedule`: the number of an update -> learning rate.

    The schedule of a transformation that was given (`as_optimizer`) is not known: it is None.
    """

    init: Callable[[Any], OptState]
    update: Callable[..., tuple[Any, OptState]]
    schedule: optax.Schedule | None


def updates_done(opt_state: OptState) -> Int[Array, ""]:
    """The number of updates that an optimizer of `build_optimizer` has made. Skipped batches do not count."""

    def is_counter(state: Any) -> bool:
        return isinstance(state, optax.ScaleByScheduleState)

    counters = [state for state in jax.tree.leaves(opt_state, is_leaf=is_counter) if is_counter(state)]
    return counters[0].count


def is_decayed(path: Path, ndim: int) -> bool:
    """Whether weight decay acts on the parameter with these names.

    It acts on matrices, kernels of convolutions and label tables. It never acts on biases, on the
    scales of norms, on Fourier frequencies, or on learned positions, whatever their rank. It does
    not act on anything else of rank 0 or 1.
    """
    return ndim >= 2 and path[-1] not in NOT_DECAYED


def is_fixed(path: Path) -> bool:
    """Whether the parameter with these names is never trained, as the frequencies of `FourierFeatures`."""
    return path[-2:] in FIXED


def learning_rate_schedule(learning_rate: float, schedule: Schedule) -> optax.Schedule:
    """A linear warm-up to `learning_rate` over `warmup_steps`, times a schedule of the step.

    "constant" is 1. "cosine" falls to `final_fraction` at `decay_steps`. "inverse_sqrt" is
    1/√max(step/decay_steps, 1) (Karras et al., arXiv 2312.02696, Eq. 67). Steps are counted from 0,
    and the warm-up is (step + 1)/warmup_steps.

    Raises: ValueError for a schedule without its decay_steps.
    """
    name, decay_steps = schedule.schedule, schedule.decay_steps
    if name != "constant" and decay_steps is None:
        raise ValueError(f"optimizer.schedule={name!r} needs decay_steps >= 1, got {decay_steps!r}.")

    def inverse_sqrt(step):
        return learning_rate / jnp.sqrt(jnp.maximum(step / decay_steps, 1.0))

    main = {
        "constant": optax.constant_schedule(learning_rate),
        "cosine": optax.cosine_decay_schedule(learning_rate, decay_steps or 1, schedule.final_fraction),
        "inverse_sqrt": inverse_sqrt,
    }[name]
    return lambda step: main(step) * jnp.minimum((step + 1) / max(schedule.warmup_steps, 1), 1.0)


def rate_warnings(rate: optax.Schedule, schedule: Schedule, done: int, remaining: int) -> list[str]:
    """Warnings about the learning rates of the next `remaining` updates, after `done` updates, as sentences.

    [] if nothing is unusual.

    Args:
      rate: update -> learning rate. It is the function that `schedule` returns.
    Raises: ValueError where every one of these updates has a rate of exactly 0.
    """

    def is_zero(update: int) -> bool:
        return float(rate(jnp.asarray(update, jnp.int32))) == 0

    updates, warmup = range(done, done + remaining), schedule.warmup_steps
    found = []
    if updates and warmup > updates.stop:
        found.append(
            f"The warm-up of {warmup} steps is longer than the training of {updates.stop}: the learning rate only gets to "
            f"{updates.stop / warmup:.2g} of optimizer.learning_rate. Set a smaller optimizer.schedule.warmup_steps."
        )
    if updates and is_zero(updates[-1]):
        nonzero = bisect.bisect_left(updates, True, key=is_zero)  # once a schedule is at 0, it stays there
        told = (
            f"the learning rate is 0 from update {updates[nonzero]} on, and the training ends after {updates.stop} "
            f"(optimizer.schedule.decay_steps={schedule.decay_steps}). Set a larger decay_steps, or final_fraction > 0."
        )
        if not nonzero:
            raise ValueError(
                f"Further training would change nothing: {told} On a resume, add --allow_change=optimizer.schedule to do so."
            )
        found.append(f"The last {remaining - nonzero} of {remaining} updates will change nothing: {told}")
    return found


def build_optimizer(name: str | None = None, **fields: Any) -> Optimizer:
    """`optimizer_of` the config section with these fields: the fields of `sections.Optimizer`, and the optimizer's own.

    Raises: ValueError for an unknown optimizer or field, or a value that is not allowed.
    """
    given = fields if name is None else {"name": name, **fields}
    catalogues = Catalogues(at={"optimizer": OPTIMIZER})
    section = checked_section("optimizer", sections.Optimizer, given, catalogues)
    return optimizer_of(made(sections.Optimizer, section))


def optimizer_of(settings: sections.Optimizer) -> Optimizer:
    """Clipping by the global norm, then the optimizer of this name, with decay only where `is_decayed` says so.

    The last stage is `forced_weight_norm`. The schedule counts updates.

    Raises: ValueError for a schedule without its decay_steps.
    """
    rate, clip_norm = learning_rate_schedule(settings.learning_rate, settings.schedule), settings.clip_norm
    clip = optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm)
    chain = optax.chain(clip, OPTIMIZERS[settings.name](rate, **settings.own))
    return Optimizer(chain.init, _by_kind_of_parameter(chain.update), rate)


def as_optimizer(transformation: Optimizer | optax.GradientTransformation) -> Optimizer:
    """A transformation of optax as an optimizer; parameters that are never trained (`is_fixed`) get no update.

    The last stage is `forced_weight_norm`. What else the transformation does is its own: its
    schedule, clipping, and which parameters it decays.
    """
    if isinstance(transformation, Optimizer):
        return transformation
    transformation = optax.with_extra_args_support(transformation)

    def update(grads: Any, state: OptState, params: Any) -> tuple[Any, OptState]:
        updates, state = transformation.update(grads, state, params)
        return forced_weight_norm(_without_fixed(updates), params), state

    return Optimizer(transformation.init, update, None)


def _by_kind_of_parameter(update: Callable[..., tuple[Any, OptState]]) -> Callable[..., Any]:
    """The same optimizer, without weight decay of undecayed parameters, and without any update of fixed parameters.

    These optimizers use the parameters only for decay. So they get zeros in place of the parameters
    without decay. `optax.masked` could do this too, but it nests the optimizer's state, and older
    checkpoints could not be read.
    """

    def masked(grads: Any, state: OptState, params: Any) -> tuple[Any, OptState]:
        seen = _map_with_names(lambda path, p: p if is_decayed(path, p.ndim) else jnp.zeros_like(p), params)
        updates, state = update(grads, state, seen)
        return forced_weight_norm(_without_fixed(updates), params), state

    return masked


def forced_weight_norm(updates: Any, params: Any) -> Any:
    """The updates after which every parameter "unit_kernel" has the magnitude 1, for each of its outputs.

    It is the last stage of every optimizer. Other parameters get the updates as they are. Without
    this stage such weights would grow, because their gradient is perpendicular to them, and the
    effective learning rate would fall.

    Source: arXiv 2312.02696, Eq. 66. One difference: the paper's code normalizes before the next
      forward pass, so its averages are of weights before the normalization.
    """

    def of(path: Path, update: Array, param: Array) -> Array:
        if path[-1] != UNIT_KERNEL:
            return update
        return normalized(param + update.astype(param.dtype), range(param.ndim - 1)) - param

    return jax.tree_util.tree_map_with_path(lambda path, *leaves: of(parallel.names_of(path), *leaves), updates, params)


def _without_fixed(updates: Any) -> Any:
    """Zeros in place of the updates of fixed parameters."""
    return _map_with_names(lambda path, u: jnp.zeros_like(u) if is_fixed(path) else u, updates)


def _map_with_names(function: Callable[[Path, Array], Array], tree: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, leaf: function(parallel.names_of(path), leaf), tree)
