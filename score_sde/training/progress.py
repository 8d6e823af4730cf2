"""The console's view of a run: a bar on a terminal, now and then a line elsewhere."""

import collections
import io
import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

BAR = "{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}{postfix}"
WINDOW = 30.0  # seconds over which the speed is measured


class Progress:
    """Shows the step, the loss (or any scalars), examples a second and the time left.

    The speed is that of the last 30 seconds, counted from the first update, so that compiling the step does not distort
    it. Scalars are looked at only when they are shown, so that a JAX array need not be computed at every step.

    Args:
      total_steps: where the run ends.
      start_step: where it starts, after a resume.
      batch_size: examples a step, over all processes.
      quiet: show nothing; pass jax.process_index() != 0.
      interval_seconds: how often to write a line where the output is no terminal; a line also comes at the first step,
        at every tenth of the run and at its end. A terminal's bar moves ten times a second at most.
      name: what is shown first.
      examples: what a batch is made of, in the plural.
      stream: None means standard error.
      clock: seconds, for tests.
    """

    def __init__(
        self,
        total_steps: int,
        start_step: int = 0,
        batch_size: int = 1,
        quiet: bool = False,
        interval_seconds: float | int = 30,
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
        self._bar = None if quiet or not self._stream.isatty() else self._new_bar(start_step)

    def update(self, step: int, scalars: Mapping[str, Any] | None = None) -> None:
        """Reports that `step` steps are done, with the latest scalars by name."""
        now = self._clock()
        self._step = step
        self._scalars = scalars if scalars is not None else self._scalars
        self._marks.append((now, step))
        while len(self._marks) > 2 and now - self._marks[1][0] > WINDOW:
            self._marks.popleft()
        if self._is_due(now):
            self._show(now)

    @property
    def examples_per_second(self) -> float | None:
        """The speed over the last 30 seconds; None before the second update."""
        if len(self._marks) < 2 or self._marks[-1][0] <= self._marks[0][0]:
            return None
        (t0, step0), (t1, step1) = self._marks[0], self._marks[-1]
        return (step1 - step0) * self.batch_size / (t1 - t0)

    def close(self) -> None:
        """Shows the last step, if it was not shown, and ends the line."""
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


def duration(seconds: float | int) -> str:
    """Writes 75 as "1:15" and 7384 as "2:03:04"."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
