"""One training step: loss, gradient, update, averages; one compiled, sharded program with donated state."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key

from score_sde import parallel
from score_sde.denoiser import Denoiser, condition_of
from score_sde.objectives import Objective
from score_sde.training.ema import ema_decay, update_ema
from score_sde.training.state import TrainState

Batch = Mapping[str, Array]
Step = Callable[[TrainState, Batch], tuple[TrainState, dict[str, Float[Array, ""]]]]


def make_train_step(
    run_key: Key[Array, ""],
    denoiser: Denoiser,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    batch_size: int,
    rampup_ratio: float | None,
    accumulation_steps: int = 1,
) -> Step:
    """Compiles (state, batch) -> (state, metrics): the metrics are the mean loss, its scalars and the gradient's norm.

    Step n draws from fold_in(run_key, n), so that it does the same thing after a resume. The batch is sharded over the
    mesh, the state is replicated and its buffers are reused.
    """

    def mean_loss(params, key, batch):
        objective_key, dropout_key = jax.random.split(key)
        denoise = denoiser.bind(params, condition_of(batch), train=True, dropout_key=dropout_key)
        loss, scalars = objective(objective_key, denoise, batch)
        return jnp.mean(loss), {name: jnp.mean(value) for name, value in scalars.items() if name != "t"}

    def train_step(state: TrainState, batch: Batch):
        key = jax.random.fold_in(run_key, state.step)
        (loss, scalars), grads = jax.value_and_grad(mean_loss, has_aux=True)(state.params, key, batch)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        step = state.step + 1
        updated = step % accumulation_steps == 0

        def averaged(name, average):
            decay = ema_decay(step, images_per_update, float(name), rampup_ratio)
            return update_ema(average, params, jnp.where(updated, decay, 1.0))

        ema = {name: averaged(name, average) for name, average in state.ema.items()}
        metrics = {"loss": loss, **scalars, "grad_norm": optax.tree.norm(grads)}
        return TrainState(step, params, ema, opt_state), metrics

    images_per_update = batch_size * accumulation_steps
    everywhere, sharded = parallel.replicated(mesh), parallel.batch_sharding(mesh)
    return jax.jit(
        train_step, in_shardings=(everywhere, sharded), out_shardings=(everywhere, everywhere), donate_argnums=0
    )
