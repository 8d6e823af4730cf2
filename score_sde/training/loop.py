"""The training loop: it reads batches, logs metrics, and runs actions (checkpoints, evaluations, pictures)."""

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
    """A function of the state that runs after every `every`-th step and after the last step. 0 means never.

    An action that `keeps` the state also runs in three more cases, whatever `every` is. It runs
    after the last step, where the run is asked to stop, and where a batch cannot be read or another
    action fails.

    Attributes:
      part: the part of the time in timing.jsonl to which the action counts.
      name: the name of the action on the console.
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
    """The observers of a run. Each is called at every step."""

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
    """Trains from `state.step` to `num_steps`, or until it is asked to stop.

    Batch n is a function of n, so a resumed run continues as if it had never stopped. Each log line
    holds the mean of each metric over the steps since the last line. If examples that cannot be
    read are skipped, "replaced_examples" is the number of examples in a batch that replace them. At
    most two steps are in flight. So the progress that is shown is real, and the memory is bounded.

    Raises: FloatingPointError where the guard raises it; the last checkpoint then stays untouched.
      ValueError for a batch that cannot be read, and the error of an action, both after the state
      was saved.
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
            # With several processes, the others may have read their part and continue.
            saves = step - 1 > start and jax.process_count() == 1
            if saves:
                guard.settle()
                _act(ends, step - 1, state, watch, progress)
            if isinstance(error, ValueError | OSError):
                raise ValueError(_unreadable(error, step, saves)) from error
            raise
        batch = parallel.shard_batch(rows, mesh)
        # Without this entry, the step's program and its bits do not depend on `on_error`.
        replaced = batch.pop("replaced", None)
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
            guard.settle()  # a step is checked before it is logged or saved
        if log_is_due:
            logger.log(step, tally.take())
            logger.log_timing(step, watch.take())
        try:
            _act([action for action in due if action not in ends], step, state, watch, progress)
        except Exception:
            # An error outside of training must not lose training: the state is saved first. With several
            # processes the others may not fail, so only the saves that are due on all processes run.
            _act([action for action in ends if action in due or jax.process_count() == 1], step, state, watch, progress)
            raise
        _act([action for action in due if action in ends], step, state, watch, progress)
        if stopping:
            break
    return state


def _unreadable(error: Exception, step: int, saved: bool) -> str:
    kept = f"Step {step - 1} is saved" if saved else "The newest checkpoint is as it was"
    return f"Batch {step} of training cannot be read: {error} {kept}; repair it, and run the same command again to continue."


def _act(actions: Sequence[Action], step: int, state: TrainState, watch: Stopwatch, progress: Progress) -> None:
    for action in actions:
        with watch.part(action.part), progress.during(action.name):
            action.run(step, state)
