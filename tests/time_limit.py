"""A time limit for every test: a test that hangs fails with its name and the stacks of all threads, and the suite continues.

Each phase of a test (fixtures, the test itself, the clean-up of fixtures) may take LIMIT_S seconds.
A test that is marked slow has LIMIT_SLOW_S, and @pytest.mark.time_limit(900) gives 900. When the
time is over, the processes that the phase started are killed, because the test may be waiting for
one of them. Then TimeLimitExceeded is raised in the main thread. A main thread that is stuck in
compiled code does not see it, so after GRACE_S more the whole process ends. Then pytest-xdist names
the test, and a new worker runs the other tests.
"""

import contextlib
import faulthandler
import os
import pathlib
import signal
import sys
import time
from collections.abc import Generator, Iterator

import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key

LIMIT_S = 300.0
LIMIT_SLOW_S = 3600.0
GRACE_S = 60.0
AGAIN_S = 10.0  # an exception raised in a destructor or a callback is lost


class TimeLimitExceeded(BaseException):
    """It is no Exception, so that no `except Exception` of a test or of the library swallows it."""


def limit_of(item: pytest.Item) -> float:
    """The seconds that each phase of a test may take."""
    marker = item.get_closest_marker("time_limit")
    if marker:
        return float(marker.args[0])
    return LIMIT_SLOW_S if item.get_closest_marker("slow") else LIMIT_S


def started_since(begin: float) -> set[int]:
    """The processes below this one that began after `begin`, in seconds since the machine's start (from /proc)."""
    parents, born = {}, {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            fields = path.read_text(errors="replace").rpartition(")")[2].split()
            pid = int(path.parent.name)
            parents[pid], born[pid] = int(fields[1]), int(fields[19]) / os.sysconf("SC_CLK_TCK")
    found: set[int] = set()
    newest = {os.getpid()}
    while newest:
        newest = {pid for pid, parent in parents.items() if parent in newest} - found
        found |= newest
    return {pid for pid in found if born[pid] > begin - 0.05}


@contextlib.contextmanager
def limited(name: str, seconds: float, stacks: int) -> Iterator[None]:
    """Raises TimeLimitExceeded in the main thread when the body takes longer. `stacks` is where stacks are written."""
    begin = time.clock_gettime(time.CLOCK_BOOTTIME)

    def stop(*_: object) -> None:
        faulthandler.dump_traceback(file=sys.__stderr__, all_threads=True)
        for pid in started_since(begin):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        raise TimeLimitExceeded(f"{name} took more than {seconds:g} s. @pytest.mark.time_limit(SECONDS) gives it more.")

    before = signal.signal(signal.SIGALRM, stop)
    faulthandler.dump_traceback_later(seconds + GRACE_S, exit=True, file=stacks)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)


def _phase(item: pytest.Item, name: str) -> Generator[None, object, object]:
    if item.config.getoption("usepdb"):
        return (yield)
    stacks = item.config.stash.get(fault_handler_stderr_fd_key, sys.__stderr__.fileno())
    with limited(f"{item.nodeid} ({name})", limit_of(item), stacks):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    """Limits the fixtures."""
    return (yield from _phase(item, "setup"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Limits the test itself."""
    return (yield from _phase(item, "test"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Limits the clean-up of fixtures."""
    return (yield from _phase(item, "teardown"))
