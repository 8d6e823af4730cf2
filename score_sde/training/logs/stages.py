"""Stages of a program that print nothing themselves: a stage longer than 5 seconds is named, with its seconds."""

import contextlib
import io
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

SILENCE = 5.0  # the seconds after which work without its own output is named
LINES = 30.0  # the seconds between two lines where the output is not a terminal
TICK = 1.0  # the seconds between two checks whether a line is due


class Heartbeat:
    """Calls `tick` every second from a thread, until it is closed. A compilation, for example, prints nothing."""

    def __init__(self, tick: Callable[[], None]) -> None:
        self._tick, self._closed = tick, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="heartbeat")
        self._thread.start()

    def close(self) -> None:
        """Ends the thread, and waits for it."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(TICK):
            self._tick()


@contextlib.contextmanager
def stage(
    name: str,
    quiet: bool | None = None,
    stream: io.TextIOBase | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[None]:
    """A context that names its work if the work takes longer than 5 s, and its duration at the end.

    Args:
      name: the work, such as "compiling the training step".
      quiet: whether to print nothing. None prints on the first process only.
      stream: the output. None is standard error.
    """
    if quiet is None:
        import jax

        quiet = jax.process_index() != 0
    told = None if quiet else _Told(name, sys.stderr if stream is None else stream, clock)
    beat = None if told is None else Heartbeat(told.tick)
    try:
        yield
    finally:
        if beat is not None and told is not None:
            beat.close()
            told.end()


class _Told:
    """The output for one stage: one line that is renewed on a terminal, and a line every half minute elsewhere."""

    def __init__(self, name: str, stream: Any, clock: Callable[[], float]) -> None:
        self._name, self._stream, self._clock = name, stream, clock
        self._begun, self._width = clock(), 0
        self._shown: float | None = None

    def tick(self) -> None:
        """Names the work when it is time to do so."""
        now, terminal = self._clock(), self._stream.isatty()
        if not is_due(now, self._begun, self._shown, TICK if terminal else LINES, SILENCE):
            return
        self._shown = now
        text = f"{self._name} … {duration(now - self._begun)}"
        self._write("\r" + text.ljust(self._width) if terminal else text + "\n")
        self._width = len(text)

    def end(self) -> None:
        """Prints the duration, if the stage was named before."""
        if self._shown is not None:
            clear = "\r" + " " * self._width + "\r" if self._stream.isatty() else ""
            self._write(f"{clear}{self._name}: {duration(self._clock() - self._begun)}\n")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def is_due(now: float, begun: float, told: float | None, interval: float | int, patience: float | int) -> bool:
    """Whether the present work must be named: after `patience` seconds, and then at every interval."""
    return now - begun >= patience if told is None else now - told >= interval


def duration(seconds: float | int) -> str:
    """Writes 75 as "1:15" and 7384 as "2:03:04"."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
