"""The queue of a sweep: first the unfinished trials of earlier runs, then new trials. It reports to the plan."""

import pathlib
from collections.abc import Callable

from score_sde.sweeps.search import Plan, Point
from score_sde.sweeps.spec import Sweep
from score_sde.sweeps.trial import Record, Trial, make_trial

Check = Callable[[Trial], None]


class Queue:
    """The trials of a sweep in `folder`, each given out once.

    Args:
      retry_failed: whether failed trials are given out again.
      check: raises ValueError for a trial that could not run. It is called before the first known
        trial starts.
      write: whether to make the trials' folders. False only reads.
    """

    def __init__(
        self,
        sweep: Sweep,
        folder: pathlib.Path,
        retry_failed: bool = False,
        check: Check | None = None,
        write: bool = True,
    ):
        self._sweep, self._folder, self._check, self._write = sweep, folder, check, write
        self._retry_failed = retry_failed
        self.plan: Plan = sweep.search.plan(sweep.axes, folder, sweep.metric.goal)
        self.trials: dict[str, Trial] = {}
        for point in self.plan.known():
            self._add(point)
        if write:
            for trial in self.trials.values():
                trial.write()
        self._waiting = [trial for trial in self.trials.values() if self._is_open(trial.record())]
        if write:
            for trial in self.trials.values():
                if trial not in self._waiting:
                    self.tell(trial, trial.record())

    def next(self) -> Trial | None:
        """A trial to run, or None when there is none left."""
        if self._waiting:
            return self._waiting.pop(0)
        while (point := self.plan.ask()) is not None:
            before = len(self.trials)
            trial = self._add(point)
            if len(self.trials) > before:
                trial.write()
                return trial
            self.tell(trial, trial.record())  # this point was suggested before, so its result counts again
        return None

    def tell(self, trial: Trial, record: Record) -> str:
        """Tells the plan how a trial ended.

        A finished trial without its metric counts as failed. The reason is then returned.
        """
        if record.state in ("failed", "pruned"):
            self.plan.tell(trial.point, record.state, None)
        elif record.state == "finished":
            try:
                value = self._sweep.metric.read(trial.folder)
            except ValueError as error:
                self.plan.tell(trial.point, "failed", None)
                return f"but {error}"
            self.plan.tell(trial.point, "finished", value)
        return record.message

    def _add(self, point: Point) -> Trial:
        trial = make_trial(self._sweep, self._folder, point)
        if trial.name not in self.trials and self._check is not None:
            self._check(trial)
        return self.trials.setdefault(trial.name, trial)

    def _is_open(self, record: Record) -> bool:
        return record.state not in ("finished", "pruned") and (record.state != "failed" or self._retry_failed)
