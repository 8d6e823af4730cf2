"""Runs a sweep on this machine: a number of trials at once, in subprocesses, until all have ended or Ctrl-C stops them."""

import fcntl
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from score_sde.sweeps.execution import Execution
from score_sde.sweeps.metric import last_step
from score_sde.sweeps.pending import Queue
from score_sde.sweeps.sharing import Slot
from score_sde.sweeps.spec import Sweep
from score_sde.sweeps.trial import Trial
from score_sde.training.logs.stages import duration
from score_sde.training.stopping import interruptible

POLL_SECONDS, PRUNE_SECONDS, LINE_SECONDS = 0.05, 1.0, 30.0


def run_local(
    sweep: Sweep,
    queue: Queue,
    folder: pathlib.Path,
    slots: Sequence[Slot],
    grace_seconds: float | int = 60,
    stream: Any = None,
) -> None:
    """Runs every trial of the queue, as many at once as there are slots.

    Raises: ValueError when another sweep runs in `folder`. KeyboardInterrupt after SIGTERM or
      Ctrl-C, when the trials have ended.
    """
    with lock(folder, grace_seconds) as descriptor, interruptible():
        running: dict[int, Execution] = {}
        progress = ProgressLine(queue, stream or sys.stderr)
        try:
            _loop(sweep, queue, slots, running, descriptor, progress)
        except KeyboardInterrupt:
            progress.say(f"Stopping {len(running)} trials; each may save first.")
            raise
        finally:
            _stop_all(running, grace_seconds)
            progress.close()


def _loop(
    sweep: Sweep,
    queue: Queue,
    slots: Sequence[Slot],
    running: dict[int, Execution],
    descriptor: int,
    progress: "ProgressLine",
) -> None:
    pruned_at, empty = time.monotonic(), False
    while True:
        for index, slot in enumerate(slots):
            if index in running or empty:
                continue
            trial = queue.next()
            if trial is None:
                empty = True
                break
            environment = {**slot.environment, **sweep.environment}
            running[index] = Execution(trial, environment, slot.cores, sweep.max_retries, passed=(descriptor,))
        if not running:
            return
        time.sleep(POLL_SECONDS)
        for index, execution in list(running.items()):
            record = execution.poll()
            if record is not None:
                del running[index]
                progress.ended(execution.trial, record.state, queue.tell(execution.trial, record))
        if time.monotonic() - pruned_at > PRUNE_SECONDS:
            pruned_at = time.monotonic()
            _prune(sweep, queue, running, progress)
        progress.show([execution.trial for execution in running.values()])


def _prune(sweep: Sweep, queue: Queue, running: dict[int, Execution], progress: "ProgressLine") -> None:
    """Stops the trials that the plan gives up, based on their metric so far."""
    if not (sweep.search.adaptive and sweep.metric.is_logged):
        return
    for index, execution in list(running.items()):
        if len(execution.record.done) == 0 and queue.plan.should_prune(execution.trial.point, logged(sweep, execution)):
            record = execution.stop("pruned")
            del running[index]
            queue.tell(execution.trial, record)
            progress.ended(execution.trial, "pruned", f"at step {execution.trial.step}")


def logged(sweep: Sweep, execution: Execution) -> Mapping[int, float]:
    """The metric of a running trial so far, by step."""
    try:
        series = sweep.metric.series(execution.trial.folder)
    except ValueError:  # nothing logged yet
        return {}
    return {int(step): float(value) for step, value in zip(series.steps, series.values, strict=True)}


def _stop_all(running: Mapping[int, Execution], grace_seconds: float | int) -> None:
    """Stops all trials. All are asked first, so that they save at the same time."""
    for execution in running.values():
        execution.terminate()
    deadline = time.monotonic() + grace_seconds
    for execution in running.values():
        execution.stop("stopped", max(0.0, deadline - time.monotonic()))


class ProgressLine:
    """The console output: a renewed line on a terminal. Elsewhere, a line at every end and every half minute."""

    def __init__(self, queue: Queue, stream: Any):
        self._queue, self._stream = queue, stream
        self._states = {name: trial.record().state for name, trial in queue.trials.items()}
        self._begun = self._shown = time.monotonic()
        self._width = 0
        before = sum(state in ("finished", "pruned") for state in self._states.values())
        if before:
            self.say(f"{before} of {len(self._states)} trials have ended before.")

    def ended(self, trial: Trial, state: str, message: str) -> None:
        self._states[trial.name] = state
        self.say(f"{trial.name}: {state}{' ' + message if message else ''}")

    def show(self, running: Sequence[Trial]) -> None:
        """Shows counts, and the progress of each running trial."""
        terminal, now = self._stream.isatty(), time.monotonic()
        if now - self._shown < (1.0 if terminal else LINE_SECONDS):
            return
        self._shown = now
        steps = ", ".join(f"{t.name} {100 * last_step(t.folder) // max(1, t.num_steps)}%" for t in running)
        ended = [state for name, state in self._states.items() if name in self._queue.trials]
        counts = [f"{ended.count(state)} {state}" for state in ("finished", "pruned", "failed") if state in ended]
        text = (
            f"{' '.join(counts) or '0 finished'} of {len(self._queue.trials)}; {steps}; {duration(now - self._begun)}"
        )
        if terminal:
            self._stream.write("\r" + text.ljust(self._width))
            self._width = len(text)
            self._stream.flush()
        else:
            self.say(text)

    def say(self, text: str) -> None:
        """Writes a line that is not overwritten."""
        clear = "\r" + " " * self._width + "\r" if self._width else ""
        print(clear + text, file=self._stream, flush=True)
        self._width = 0

    def close(self) -> None:
        if self._width:
            self.say("")


@contextmanager
def lock(folder: pathlib.Path, wait_seconds: float | int) -> Iterator[int]:
    """Holds the sweep's lock. Its trials hold the lock too, so trials left behind by a killed sweep are waited for.

    Raises: ValueError when the lock is not free after `wait_seconds`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait_seconds
    with (folder / "lock").open("a") as file:
        while True:  # flock itself has no timeout
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise ValueError(
                        f"Another sweep runs in {folder}, or trials of one that was killed still do; wait for it or end it, "
                        "or use another --workdir."
                    ) from error
                time.sleep(0.2)
        yield file.fileno()


def is_locked(folder: pathlib.Path) -> bool:
    """Whether a sweep, or a trial of a sweep, runs in `folder` on this machine."""
    path = folder / "lock"
    if not path.is_file():
        return False
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
