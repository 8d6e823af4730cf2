"""Commands that stop when asked, between any two lines: SIGTERM and Ctrl-C become an exception that says what is kept.

Training notes the request and ends its step first (`preemption`); everything else keeps what it has finished, part by part.
This module imports no framework, so that a signal is heard while JAX loads.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}
EXIT = (
    "SCORE_SDE_STOPPED_EXIT"  # the exit status after a stop, where 0 would read as done; a sweep sets it for its trials
)
AGAIN = "the same command starts again."


class Stopped(KeyboardInterrupt):
    """A request to stop; its argument names what asked, its notes say what is kept."""


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """While entered, the first SIGTERM or SIGINT raises `Stopped` where the program is; a second one ends it at once.

    What the parent process told this one to ignore (nohup, &) stays ignored. In one of several processes JAX takes SIGTERM.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        for one in before:
            signal.signal(one, signal.SIG_DFL if one == signal.SIGTERM else signal.default_int_handler)
        raise Stopped(NAMES[signal.Signals(number)])

    heard = [number for number in NAMES if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def kept(text: str | Callable[[], str]) -> Iterator[None]:
    """Adds to a request to stop what of the work inside is kept, where nothing within has said it more exactly."""
    try:
        yield
    except KeyboardInterrupt as stop:
        if not getattr(stop, "__notes__", None):
            stop.add_note(text if isinstance(text, str) else text())
        raise


def closing_line(stop: KeyboardInterrupt) -> str:
    """What a stopped command says last."""
    reason = stop.args[0] if isinstance(stop, Stopped) else NAMES[signal.SIGINT]
    return f"Stopped by {reason}; {' '.join(getattr(stop, '__notes__', None) or [AGAIN])}"


def exit_status(stop: KeyboardInterrupt) -> int:
    """0, as of training that saved and stopped, or what the environment asks for; 130 where a second Ctrl-C cut that short."""
    return int(os.environ.get(EXIT, "0")) if isinstance(stop, Stopped) else 128 + signal.SIGINT
