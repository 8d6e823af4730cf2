"""The training loop: batches in, metrics out, and actions (checkpoints, evaluations, pictures) every so many steps."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from score_sde import parallel
from score_sde.data import TrainBatches
from score_sde.training.logging import MetricLogger
from score_sde.training.progress import Progress
from score_sde.training.state import TrainState
from score_sde.training.step import Step


class Action(NamedTuple):
    """Something done with the state after every `every`-th step, and after the last; 0 means never."""

    every: int
    run: Callable[[int, TrainState], None]

    def is_due(self, step: int, last: int) -> bool:
        return self.every > 0 and (step % self.every == 0 or step == last)


def train(
    state: TrainState,
    train_step: Step,
    batches: TrainBatches,
    mesh: Mesh,
    num_steps: int,
    *,
    log_every: int,
    logger: MetricLogger,
    progress: Progress,
    actions: Sequence[Action] = (),
) -> TrainState:
    """Trains from `state.step` to `num_steps`. Batch n is a function of n, so a resumed run goes on as if never stopped.

    Each log line holds the mean of each metric over the steps since the line before; checkpoints at multiples of
    `log_every` therefore leave the same lines behind as a run that was not stopped.

    Raises: FloatingPointError where a logged loss is not finite. The state of the last checkpoint is untouched.
    """
    pending: list[Mapping[str, Float[Array, ""]]] = []
    waited, since = 0.0, time.perf_counter()
    iterator = batches.iterate(int(state.step), num_steps)
    for step in range(int(state.step) + 1, num_steps + 1):
        before = time.perf_counter()
        batch = next(iterator)
        waited += time.perf_counter() - before
        state, metrics = train_step(state, parallel.shard_batch(batch, mesh))
        if pending:
            jax.block_until_ready(pending[-1])  # at most two steps in flight: progress is real, memory bounded
        pending.append(metrics)
        progress.update(step, {"loss": metrics["loss"]})
        if step % log_every == 0 or step == num_steps:
            means = _means(pending)
            logger.log(step, means)
            _check_finite(step, means)
            seconds = time.perf_counter() - since
            rate = len(pending) * batches.batch_size / seconds
            timing = {"step_seconds": seconds / len(pending), "images_per_second": rate, "data_wait": waited / seconds}
            logger.log_timing(step, timing)
            pending, waited = [], 0.0
        for action in actions:
            if action.is_due(step, num_steps):
                action.run(step, state)
        if not pending:
            since = time.perf_counter()
    return state


def _means(pending: Sequence[Mapping[str, Array]]) -> dict[str, float]:
    """The mean of each metric, in float64 on the host; waits for the steps to be computed."""
    values = jax.device_get(list(pending))
    return {name: float(np.mean([float(v[name]) for v in values], dtype=np.float64)) for name in values[0]}


def _check_finite(step: int, means: Mapping[str, float]) -> None:
    if not np.isfinite(means["loss"]):
        raise FloatingPointError(
            f"The mean loss up to step {step} is {means['loss']} (gradient norm {means.get('grad_norm')}). The last checkpoint "
            "is as it was: resume from it with a lower optimizer.learning_rate, a smaller optimizer.clip_norm, or a larger "
            "t_min of the time sampler."
        )
