"""One training step: loss, gradient, update, averages; one compiled, sharded program with donated state."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key

from score_sde import parallel
from score_sde.denoiser import Denoiser
from score_sde.objectives import Objective
from score_sde.training.ema import ema_decay, update_ema
from score_sde.training.optimizers import Optimizer, updates_done
from score_sde.training.state import Params, TrainState, state_sharding

Batch = Mapping[str, Any]
Metrics = dict[str, Float[Array, ""]]
Examples = dict[str, Float[Array, " b"]]
Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics, Examples]]


def make_train_step(
    run_key: Key[Array, ""],
    denoiser: Denoiser,
    objective: Objective,
    optimizer: Optimizer,
    mesh: Mesh,
    *,
    batch_size: int,
    rampup_ratio: float | None,
    accumulation_steps: int = 1,
) -> "CompiledStep":
    """Compiles (state, batch) -> (state, metrics, examples).

    The metrics are the mean loss and scalars, the gradient's norm, the learning rate of this update, and "skipped": 1 where
    loss or gradient is not finite, and then the step counts but parameters, averages and optimizer stay as they were. The
    examples are the loss of each example of the batch and its noise level "t", sharded like the batch.

    Step n draws from fold_in(run_key, n), so that it does the same thing after a resume. The batch is sharded over the
    mesh, the state as `state_sharding` says, and its buffers are reused. With `accumulation_steps` = k the gradient is the
    mean over k parts of the batch, one after another, in about 1/k of the memory for activations: the same draws, so the
    same update up to the order of sums (and the dropout, which draws anew for each part).

    Raises: ValueError when the devices cannot share the batch evenly in k parts.
    """
    parallel.check_batch_size(batch_size, mesh, accumulation_steps)
    gradient = _gradient(denoiser, objective, mesh, accumulation_steps)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics, Examples]:
        draw_key, dropout_key = jax.random.split(jax.random.fold_in(run_key, state.step))
        draws = jax.lax.with_sharding_constraint(objective.draw(draw_key, batch), parallel.batch_sharding(mesh))
        grads, scalars = gradient(state.params, batch, draws, dropout_key)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        step = state.step + 1

        def averaged(name, average):
            return update_ema(average, params, ema_decay(step, batch_size, float(name), rampup_ratio))

        ema = {name: averaged(name, average) for name, average in state.ema.items()}
        metrics = {name: jnp.mean(value) for name, value in scalars.items() if name != "t"}
        metrics["grad_norm"] = optax.tree.norm(grads)
        metrics["learning_rate"] = jnp.asarray(optimizer.schedule(updates_done(state.opt_state)), jnp.float32)
        ok = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
        kept, updated = state._replace(step=step), TrainState(step, params, ema, opt_state)
        state = jax.tree.map(lambda new, old: jnp.where(ok, new, old), updated, kept)
        metrics["skipped"] = 1.0 - ok.astype(jnp.float32)
        return state, metrics, {name: scalars[name] for name in ("t", "loss") if name in scalars}

    return CompiledStep(train_step, denoiser, mesh)


class CompiledStep:
    """A `Step`, compiled for the sharding of the first state that it sees (of which shapes are enough to `lower` it)."""

    def __init__(self, train_step: Step, denoiser: Denoiser, mesh: Mesh):
        self._train_step, self._denoiser, self._mesh = train_step, denoiser, mesh
        self._jitted: Any = None

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics, Examples]:
        return self._jit(state)(state, batch)

    def lower(self, state: TrainState, batch: Batch) -> jax.stages.Lowered:
        """The program for arrays, or shapes, like these."""
        return self._jit(state).lower(state, batch)

    def _jit(self, state: TrainState) -> Any:
        if self._jitted is None:
            sharding = state_sharding(state, self._denoiser, self._mesh)
            everywhere, over_batch = parallel.replicated(self._mesh), parallel.batch_sharding(self._mesh)
            self._jitted = jax.jit(
                self._train_step,
                in_shardings=(sharding, over_batch),
                out_shardings=(sharding, everywhere, over_batch),
                donate_argnums=0,
            )
        return self._jitted


def _gradient(
    denoiser: Denoiser, objective: Objective, mesh: Mesh, number: int
) -> Callable[..., tuple[Params, Examples]]:
    """(params, batch, draws, dropout key) -> (gradient of the mean loss, scalars of each example with the loss).

    The parameters are gathered over fsdp before they are used, once for all parts, and the gradient of each part is
    divided at once. XLA left to itself moves activations between devices where the parameters are the smaller.
    """

    def mean_loss(params, batch, draws, dropout_key):
        denoise = denoiser.bind(params, batch["condition"], train=True, dropout_key=dropout_key)
        losses, scalars = objective.losses(denoise, batch, draws)
        return jnp.mean(losses), {**scalars, "loss": losses}

    def gather(params):
        return jax.lax.with_sharding_constraint(params, state_sharding(params, denoiser, mesh, over_fsdp=False))

    def of_part(params, batch, draws, dropout_key):
        grads, scalars = jax.grad(mean_loss, has_aux=True)(params, batch, draws, dropout_key)
        return jax.lax.with_sharding_constraint(grads, state_sharding(grads, denoiser, mesh)), scalars

    def at_once(params, batch, draws, dropout_key):
        return of_part(gather(params), batch, draws, dropout_key)

    def accumulated(params, batch, draws, dropout_key):
        gathered = gather(params)

        def add(total, part):
            index, (rows, drawn) = part
            grads, scalars = of_part(gathered, rows, drawn, jax.random.fold_in(dropout_key, index))
            return jax.tree.map(jnp.add, total, grads), scalars

        parts = parallel.split_microbatches((dict(batch), draws), number, mesh)
        zeros = jax.tree.map(jnp.zeros_like, params)
        total, scalars = jax.lax.scan(add, zeros, (jnp.arange(number), parts))
        return jax.tree.map(lambda g: g / number, total), parallel.merge_microbatches(scalars, mesh)

    return at_once if number == 1 else accumulated
