"""Computes f(start), f(start + 1), … ahead of the loop that consumes them."""

import collections
import concurrent.futures
import itertools
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")


def prefetch(
    function: Callable[[int], T], start: int, stop: int | None = None, *, depth: int = 2, num_threads: int = 1
) -> Iterator[T]:
    """Yields function(n) for n = start, …, stop − 1 in order, with up to `depth` values computed ahead by threads.

    Because every value is a function of its number alone, more threads change nothing but the speed. What the function
    raises is raised here, at its place in the order. Leaving the loop (break, close, an exception) drops the work that
    has not begun and joins the threads.

    Args:
        function: what to compute; called in other threads.
        start: first number.
        stop: one above the last number; None goes on for ever.
        depth: how many values may wait; 0 computes each when it is asked for, in the caller's thread.
        num_threads: how many are computed at once.

    Raises:
        ValueError: if depth < 0 or num_threads < 1.
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
