"""The progress of a run on the console: a bar on a terminal, and a line from time to time elsewhere."""

import collections
import contextlib
import io
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any

from score_sde.training.logs.stages import LINES, SILENCE, TICK, Heartbeat, duration, is_due

BAR = "{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}{postfix}"
WINDOW = 30.0  # the seconds over which the speed is measured


class Progress:
    """Shows the step, the loss (or any scalars), examples per second and the time left.

    The speed is the speed of the steps alone, over the last 30 seconds. Compilation does not count,
    and work inside of `during`, such as an evaluation, does not count. So the time left does not
    include the evaluations to come. Scalars are read only when they are shown, so a JAX array need
    not be computed at every step. A line names the present work if nothing was shown for 5 s at the
    start or in a `during`, or for the whole interval.

    Args:
      total_steps: the step at which the run ends.
      start_step: the step at which the run starts, after a resume.
      batch_size: examples per step, over all processes.
      quiet: whether to show nothing; pass jax.process_index() != 0.
      interval_seconds: the time between two lines where the output is not a terminal. A line also
        comes at the first step, at every tenth of the run and at its end. The bar of a terminal
        moves at most ten times a second.
      name: the word at the start of a line.
      examples: the name of the examples, in the plural.
      stream: the output. None is standard error.
      clock: a function that returns seconds, for tests.
    """

    def __init__(
        self,
        total_steps: int,
        start_step: int = 0,
        batch_size: int = 1,
        quiet: bool = False,
        interval_seconds: float | int = LINES,
        name: str = "train",
        examples: str = "images",
        stream: io.TextIOBase | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 <= start_step <= total_steps or batch_size < 1:
            raise ValueError(
                f"Progress needs 0 <= start_step <= total_steps and batch_size >= 1, "
                f"got {start_step=}, {total_steps=}, {batch_size=}."
            )
        self.total_steps, self.batch_size, self.examples, self.name = total_steps, batch_size, examples, name
        self._stream = sys.stderr if stream is None else stream
        self._quiet, self._interval, self._clock = quiet, interval_seconds, clock
        self._marks: collections.deque[tuple[float, int]] = collections.deque()
        self._step, self._shown_step = start_step, start_step
        self._start_time = self._shown_time = clock()
        self._scalars: Mapping[str, Any] = {}
        self._away = 0.0  # the seconds spent in all `during` contexts
        self._doing, self._since = "", self._start_time  # the present `during` context, and its start
        self._told: float | None = None  # when the present work was last named
        self._lock = threading.RLock()  # the heartbeat's thread shows progress too
        self._bar = None if quiet or not self._stream.isatty() else self._new_bar(start_step)
        self._beat = None if quiet else Heartbeat(self._tick)

    def update(self, step: int, scalars: Mapping[str, Any] | None = None) -> None:
        """Reports that `step` steps are done, with the latest scalars by name."""
        with self._lock:
            now = self._clock()
            self._step, self._told = step, None
            self._scalars = scalars if scalars is not None else self._scalars
            self._marks.append((now - self._away, step))
            while len(self._marks) > 2 and now - self._away - self._marks[1][0] > WINDOW:
                self._marks.popleft()
            if self._is_due(now):
                self._show(now)

    @contextlib.contextmanager
    def during(self, name: str) -> Iterator[None]:
        """A context for work that is not a step. Its name is shown if it takes long.

        Its time counts neither for the speed nor for the time left.
        """
        with self._lock:
            outer, begun = self._doing, self._clock()
            self._doing, self._since, self._told = name, begun, None
        try:
            yield
        finally:
            with self._lock:
                now = self._clock()
                if self._told is not None:
                    self._say(f"{name}: {duration(now - begun)}")
                self._doing, self._since, self._told = outer, now, None
                self._away += 0.0 if outer else now - begun

    @property
    def examples_per_second(self) -> float | None:
        """The speed over the last 30 seconds. None before the second update."""
        if len(self._marks) < 2 or self._marks[-1][0] <= self._marks[0][0]:
            return None
        (t0, step0), (t1, step1) = self._marks[0], self._marks[-1]
        return (step1 - step0) * self.batch_size / (t1 - t0)

    def close(self) -> None:
        """Shows the last step, if it was not shown yet, and ends the line."""
        if self._beat is not None:
            self._beat.close()
            self._beat = None
        if not self._quiet and self._step != self._shown_step:
            self._show(self._clock())
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _new_bar(self, start_step: int) -> Any:
        from tqdm import tqdm

        options = {"initial": start_step, "bar_format": BAR, "dynamic_ncols": True, "mininterval": 0, "miniters": 1}
        return tqdm(total=self.total_steps, desc=self.name, file=self._stream, **options)

    def _is_due(self, now: float) -> bool:
        if self._quiet:
            return False
        since = now - self._shown_time
        if self._bar is not None:
            return since >= 0.1 or self._step == self.total_steps
        tenths = [10 * step // max(self.total_steps, 1) for step in (self._shown_step, self._step)]
        return len(self._marks) == 1 or since >= self._interval or tenths[1] > tenths[0]

    def _tick(self) -> None:
        """Names the present work when it is time to do so. The heartbeat calls it."""
        with self._lock:
            now, interval = self._clock(), TICK if self._bar is not None else self._interval
            name, begun, patience = self._under_way()
            if name and is_due(now, begun, self._told, interval, patience):
                self._told = now
                self._say(f"{name} … {duration(now - begun)}")

    def _under_way(self) -> tuple[str, float, float | int]:
        """(the present work, its start, the seconds after which it is named)."""
        if self._doing:
            return self._doing, self._since, SILENCE
        if self._step >= self.total_steps:
            return "", self._since, SILENCE
        if not self._marks:
            return "the first step, with its compilation", self._since, SILENCE
        return f"step {self._step + 1}", self._shown_time, max(SILENCE, self._interval)

    def _say(self, text: str) -> None:
        """Writes a line that does not belong to a step."""
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=True)
        else:
            print(f"{self.name}: {text}", file=self._stream, flush=True)

    def _show(self, now: float) -> None:
        text = self._text()
        if self._bar is not None:
            self._bar.n = self._step
            self._bar.set_postfix_str(text, refresh=True)
        else:
            percent = 100 * self._step // max(self.total_steps, 1)
            print(
                f"{self.name} {percent:3d}% step {self._step}/{self.total_steps} {text}", file=self._stream, flush=True
            )
        self._shown_step, self._shown_time = self._step, now

    def _text(self) -> str:
        parts = [f"{name} {float(value):.4g}" for name, value in self._scalars.items()]
        speed = self.examples_per_second
        if speed:
            left = (self.total_steps - self._step) * self.batch_size / speed
            digits = ".1f" if speed < 10 else ",.0f"
            parts.append(f"{speed:{digits}} {self.examples}/s")
            parts.append(f"{duration(left)} left" if left else f"took {duration(self._clock() - self._start_time)}")
        return ", ".join(parts)
