"""The training loop: batches in, metrics out, and actions (checkpoints, evaluations, pictures) every so many steps."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from score_sde import parallel
from score_sde.data import TrainBatches
from score_sde.training.incidents import FiniteGuard
from score_sde.training.logs.logging import MetricLogger
from score_sde.training.logs.progress import Progress
from score_sde.training.logs.tally import Tally
from score_sde.training.preemption import StopRequest
from score_sde.training.profiling import Stopwatch, Trace
from score_sde.training.state import TrainState
from score_sde.training.step import Step


class Action(NamedTuple):
    """Something done with the state after every `every`-th step, and after the last; 0 means never.

    Fields: `part` is what its time counts as, `name` what the console calls it. One that `keeps` the state is done after the
    last step whatever `every`, where the run is asked to stop, and where a batch cannot be read or another action fails.
    """

    every: int
    run: Callable[[int, TrainState], None]
    part: str = "other"
    keeps: bool = False
    name: str = "evaluating"

    def is_due(self, step: int, last: int, stopping: bool = False) -> bool:
        if self.keeps and (stopping or step == last):
            return True
        return self.every > 0 and (step % self.every == 0 or step == last)


class Instruments(NamedTuple):
    """What watches a run: each is told of every step."""

    logger: MetricLogger
    progress: Progress
    tally: Tally
    guard: FiniteGuard
    watch: Stopwatch
    trace: Trace
    stop: StopRequest


def train(
    state: TrainState,
    train_step: Step,
    batches: TrainBatches,
    mesh: Mesh,
    num_steps: int,
    *,
    log_every: int,
    instruments: Instruments,
    actions: Sequence[Action] = (),
) -> TrainState:
    """Trains from `state.step` to `num_steps`, or to where it is asked to stop.

    Batch n is a function of n, so a resumed run goes on as if never stopped. Each log line holds the mean of each metric
    over the steps since the line before; "replaced_examples" is the number in a batch of examples that stand for some that
    could not be read, where these are skipped. At most two steps are in flight: progress is real, and memory bounded.

    Raises: FloatingPointError where the guard does; the last checkpoint is untouched. ValueError for a batch that cannot be
      read, and what an action raises, after the state was saved.
    """
    logger, progress, tally, guard, watch, trace, stop = instruments
    start = int(state.step)
    iterator = batches.iterate(start, num_steps)
    ends = [action for action in actions if action.keeps]
    for step in range(start + 1, num_steps + 1):
        try:
            with watch.part("data"):
                rows = next(iterator)
        except Exception as error:
            saves = step - 1 > start and jax.process_count() == 1  # other processes may have read theirs, and go on
            if saves:
                guard.settle()
                _act(ends, step - 1, state, watch, progress)
            if isinstance(error, ValueError | OSError):
                raise ValueError(_unreadable(error, step, saves)) from error
            raise
        batch = parallel.shard_batch(rows, mesh)
        replaced = batch.pop("replaced", None)  # the step's program, and so its bits, are the same without
        with trace.step(step, state):
            state, metrics, examples = train_step(state, batch)
        if replaced is not None:
            metrics = metrics | {"replaced_examples": jnp.sum(replaced, dtype=jnp.float32)}
        guard.add(step, metrics, examples, batch["index"])
        tally.add(metrics)
        watch.count_step()
        progress.update(step, {"loss": metrics["loss"]})
        stopping = stop.reached(step)
        trace.finish(step, state, last=stopping or step == num_steps)
        due = [action for action in actions if action.is_due(step, num_steps, stopping)]
        log_is_due = step % log_every == 0 or step == num_steps
        if log_is_due or due:
            guard.settle()  # nothing is logged or saved of a step that was not looked at
        if log_is_due:
            logger.log(step, tally.take())
            logger.log_timing(step, watch.take())
        try:
            _act([action for action in due if action not in ends], step, state, watch, progress)
        except Exception:
            # What fails beside the training costs none of it; where other processes do not fail, only what is due for all.
            _act([action for action in ends if action in due or jax.process_count() == 1], step, state, watch, progress)
            raise
        _act([action for action in due if action in ends], step, state, watch, progress)
        if stopping:
            break
    return state


def _unreadable(error: Exception, step: int, saved: bool) -> str:
    kept = f"Step {step - 1} is saved" if saved else "The newest checkpoint is as it was"
    return (
        f"Batch {step} of training cannot be read: {error} {kept}; mend that, and the same command goes on from there."
    )


def _act(actions: Sequence[Action], step: int, state: TrainState, watch: Stopwatch, progress: Progress) -> None:
    for action in actions:
        with watch.part(action.part), progress.during(action.name):
            action.run(step, state)
