"""Commands that stop when asked: SIGTERM and Ctrl-C become an exception that says what is kept.

Training first ends its step (`preemption`). Every other command keeps the parts that it has
finished. This module imports no framework, so a signal is handled even while JAX is loading.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}
EXIT = "SCORE_SDE_STOPPED_EXIT"  # the exit status after a stop; a sweep sets it for its trials, where 0 would mean finished
AGAIN = "the same command starts again."


class Stopped(KeyboardInterrupt):
    """A request to stop. Its argument names the signal, and its notes say what is kept."""


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """A context in which the first SIGTERM or SIGINT raises `Stopped` in the running code.

    A second signal ends the program at once. Signals that the parent process told this process to
    ignore (nohup, &) stay ignored. In one of several processes, JAX handles SIGTERM.
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
    """A context that adds to a request to stop what is kept of the work, unless an inner context has done so."""
    try:
        yield
    except KeyboardInterrupt as stop:
        if not getattr(stop, "__notes__", None):
            stop.add_note(text if isinstance(text, str) else text())
        raise


def closing_line(stop: KeyboardInterrupt) -> str:
    """The last line of a stopped command."""
    reason = stop.args[0] if isinstance(stop, Stopped) else NAMES[signal.SIGINT]
    return f"Stopped by {reason}; {' '.join(getattr(stop, '__notes__', None) or [AGAIN])}"


def exit_status(stop: KeyboardInterrupt) -> int:
    """The exit status after a stop.

    It is 0, as for training that saved and stopped, or the status in the environment. It is 130
    where a second Ctrl-C interrupted the saving.
    """
    return int(os.environ.get(EXIT, "0")) if isinstance(stop, Stopped) else 128 + signal.SIGINT
