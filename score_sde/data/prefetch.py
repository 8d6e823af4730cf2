"""Computes f(start), f(start + 1), … ahead of the loop that uses the values."""

import collections
import concurrent.futures
import itertools
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")


def prefetch(
    function: Callable[[int], T], start: int, stop: int | None = None, *, depth: int = 2, num_threads: int = 1
) -> Iterator[T]:
    """Yields function(n) for n = start, …, stop − 1 in order. Threads compute up to `depth` values ahead.

    Every value is a function of its number alone, so more threads change only the speed. An error
    of the function is raised here, at its place in the order. When the loop is left (break, close,
    an exception), work that has not begun is dropped and the threads are joined.

    Args:
      function: the function to compute. Other threads call it.
      start: the first number.
      stop: one above the last number. None means no end.
      depth: the number of values that may wait. 0 computes each value when it is asked for, in the
        caller's thread.
      num_threads: the number of values that are computed at the same time.
    Raises: ValueError if depth < 0 or num_threads < 1.
    """
    if depth < 0 or num_threads < 1:
        raise ValueError(f"prefetch needs depth >= 0 and num_threads >= 1, got {depth=}, {num_threads=}.")
    numbers = itertools.count(start) if stop is None else range(start, stop)
    return map(function, numbers) if depth == 0 else _ahead(function, iter(numbers), depth, num_threads)


def _ahead(function: Callable[[int], T], numbers: Iterator[int], depth: int, num_threads: int) -> Iterator[T]:
    pool = concurrent.futures.ThreadPoolExecutor(num_threads, thread_name_prefix="score_sde-data")
    try:
        waiting = collections.deque(pool.submit(function, n) for n in itertools.islice(numbers, depth))
        while waiting:
            value = waiting.popleft().result()
            waiting.extend(pool.submit(function, n) for n in itertools.islice(numbers, 1))
            yield value
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
