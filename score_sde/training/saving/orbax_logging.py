"""Silences what orbax and TensorStore print about errors that they also raise."""

import functools
import logging
import sys
import traceback
from collections.abc import Callable
from typing import Any

_SOURCES = ("/orbax/checkpoint/", "/tensorstore/")


def silence_reported_errors() -> None:
    """From now on, such errors are not printed. With absl's --verbosity=1 they are logged as before.

    Orbax logs an error with a traceback in each thread that meets it. asyncio logs it again when
    the thread's objects are deleted. TensorStore reports each operation that ends after the loop
    that waited for it. Every such error is also raised by the call that waits for the thread.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_is_of_others)
    hook = sys.unraisablehook
    if not (isinstance(hook, functools.partial) and hook.func is _print_others):
        sys.unraisablehook = functools.partial(_print_others, hook)


def _is_of_others(record: logging.LogRecord) -> bool:
    if record.levelno < logging.ERROR or logging.getLogger("absl").isEnabledFor(logging.INFO):
        return True
    places = [record.pathname, record.getMessage()]
    if record.exc_info and record.exc_info[2] is not None:
        places += [frame.filename for frame in traceback.extract_tb(record.exc_info[2])]
    return not any(source in place for source in _SOURCES for place in places)


def _print_others(before: Callable[[Any], object], unraisable: Any) -> None:
    if unraisable.object is not None or str(unraisable.exc_value) != "Event loop is closed":
        before(unraisable)
