"""One training step (loss, gradient, update, averages) as one compiled, sharded program with donated state."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key

from score_sde import parallel
from score_sde.tasks import Task
from score_sde.training.averages import ema_decay, update_ema
from score_sde.training.optimizers import Optimizer, updates_done
from score_sde.training.state import Params, TrainState, state_sharding

Batch = Mapping[str, Any]
Metrics = dict[str, Float[Array, ""]]
Examples = dict[str, Float[Array, " b"]]
Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics, Examples]]


def make_train_step(
    run_key: Key[Array, ""],
    task: Task,
    optimizer: Optimizer,
    mesh: Mesh,
    *,
    batch_size: int,
    rampup_ratio: float | None,
    accumulation_steps: int = 1,
) -> "CompiledStep":
    """Compiles (state, batch) -> (state, metrics, examples).

    The metrics are the mean loss and scalars, the gradient's norm, the learning rate of this
    update, and "skipped". "skipped" is 1 where the loss or the gradient is not finite. Then the
    step counts, but parameters, averages and optimizer stay as they were. The examples are the loss
    of each example of the batch and the task's facts, sharded like the batch. With several
    parameter groups the loss is the sum of their losses, and each is also a metric "loss_GROUP".

    Step n draws from fold_in(run_key, n), so it does the same after a resume. The batch is sharded
    over the mesh, the state as in `state_sharding`, and the buffers of the state are reused. With
    `accumulation_steps` = k the gradient is the mean over k parts of the batch, one after another.
    The activations then take about 1/k of the memory. The draws are the same, so the update is the
    same up to the order of sums. Dropout is an exception: it has new draws for each part.

    Raises: ValueError when the devices cannot share the batch evenly in k parts.
    """
    parallel.check_batch_size(batch_size, mesh, accumulation_steps)
    gradient = _gradient(task, mesh, accumulation_steps)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics, Examples]:
        draw_key, dropout_key = jax.random.split(jax.random.fold_in(run_key, state.step))
        drawn = task.draw(draw_key, state.step, batch)
        draws = jax.lax.with_sharding_constraint(drawn, parallel.batch_sharding(mesh))
        grads, scalars, examples = gradient(state.params, state.ema, batch, draws, dropout_key)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        step = state.step + 1

        def averaged(name, average):
            return update_ema(average, params, ema_decay(step, batch_size, float(name), rampup_ratio))

        ema = {name: averaged(name, average) for name, average in state.ema.items()}
        metrics = {name: jnp.mean(value) for name, value in scalars.items()}
        metrics["grad_norm"] = optax.tree.norm(grads)
        if optimizer.schedule is not None:
            metrics["learning_rate"] = jnp.asarray(optimizer.schedule(updates_done(state.opt_state)), jnp.float32)
        ok = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
        kept, updated = state._replace(step=step), TrainState(step, params, ema, opt_state)
        state = jax.tree.map(lambda new, old: jnp.where(ok, new, old), updated, kept)
        metrics["skipped"] = 1.0 - ok.astype(jnp.float32)
        return state, metrics, examples

    return CompiledStep(train_step, task, mesh)


class CompiledStep:
    """A `Step`, compiled for the sharding of the first state. To `lower` it, the shapes of a state are enough."""

    def __init__(self, train_step: Step, task: Task, mesh: Mesh):
        self._train_step, self._task, self._mesh = train_step, task, mesh
        self._jitted: Any = None

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics, Examples]:
        return self._jit(state)(state, batch)

    def lower(self, state: TrainState, batch: Batch) -> jax.stages.Lowered:
        """The program for arrays, or shapes, like these."""
        return self._jit(state).lower(state, batch)

    def _jit(self, state: TrainState) -> Any:
        if self._jitted is None:
            sharding = state_sharding(state, self._task, self._mesh)
            everywhere, over_batch = parallel.replicated(self._mesh), parallel.batch_sharding(self._mesh)
            self._jitted = jax.jit(
                self._train_step,
                in_shardings=(sharding, over_batch),
                out_shardings=(sharding, everywhere, over_batch),
                donate_argnums=0,
            )
        return self._jitted


def _gradient(task: Task, mesh: Mesh, number: int) -> Callable[..., tuple[Params, Examples, Examples]]:
    """(params, averages, batch, draws, dropout key) -> (gradient, scalars by example, facts by example).

    The scalars and the facts both include the loss. Each parameter group has the gradient of
    its own mean loss. The parameters are gathered over fsdp before they
    are used, once for all parts. The gradient of each part is divided over fsdp at once. By itself,
    XLA moves activations between devices even where the parameters are smaller.
    """

    def gather(params):
        return jax.lax.with_sharding_constraint(params, state_sharding(params, task, mesh, over_fsdp=False))

    def of_part(params, averages, batch, draws, dropout_key):
        def mean_losses(params):
            losses, scalars, facts = task.losses(params, averages, batch, draws, dropout_key)
            return {group: jnp.mean(loss) for group, loss in losses.items()}, _by_example(losses, scalars, facts)

        means, pullback, by_example = jax.vjp(mean_losses, params, has_aux=True)
        grads = _of_groups(params, means, pullback)
        return jax.lax.with_sharding_constraint(grads, state_sharding(grads, task, mesh)), by_example

    def at_once(params, averages, batch, draws, dropout_key):
        grads, (scalars, facts) = of_part(gather(params), averages, batch, draws, dropout_key)
        return grads, scalars, facts

    def accumulated(params, averages, batch, draws, dropout_key):
        gathered = gather(params)

        def add(total, part):
            index, (rows, drawn) = part
            grads, by_example = of_part(gathered, averages, rows, drawn, jax.random.fold_in(dropout_key, index))
            return jax.tree.map(jnp.add, total, grads), by_example

        parts = parallel.split_microbatches((dict(batch), draws), number, mesh)
        zeros = jax.tree.map(jnp.zeros_like, params)
        total, by_example = jax.lax.scan(add, zeros, (jnp.arange(number), parts))
        return jax.tree.map(lambda g: g / number, total), *parallel.merge_microbatches(by_example, mesh)

    return at_once if number == 1 else accumulated


def _by_example(losses: Examples, scalars: Examples, facts: Examples) -> tuple[Examples, Examples]:
    """(scalars with the losses, which are averaged and logged; facts with the loss, which incidents report)."""
    loss = functools.reduce(jnp.add, losses.values())
    groups = {f"loss_{group}": value for group, value in losses.items()} if len(losses) > 1 else {}
    return {**scalars, **groups, "loss": loss}, {**facts, "loss": loss}


def _of_groups(params: Params, means: Metrics, pullback: Callable[[Metrics], tuple[Params]]) -> Params:
    """The gradient of each group's mean loss, with respect to the parameters of that group."""

    def of(group):
        return pullback({other: jnp.float32(other == group) for other in means})[0]

    if len(means) == 1:
        return of(next(iter(means)))
    if set(means) != set(params):
        raise ValueError(
            f"A task with several losses needs one for each parameter group {sorted(params)}, got {sorted(means)}."
        )
    return {group: of(group)[group] for group in params}
