import itertools
import threading
import time

import pytest

from score_sde.data.prefetch import prefetch


def data_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("score_sde-data")]


@pytest.mark.parametrize(("depth", "num_threads"), [(0, 1), (1, 1), (3, 1), (4, 3)])
def test_values_come_in_order_whatever_the_threads(depth, num_threads):
    def slow_when_even(n):
        time.sleep(0.002 * (n % 2 == 0))
        return n * n

    values = prefetch(slow_when_even, 5, 25, depth=depth, num_threads=num_threads)
    assert list(values) == [n * n for n in range(5, 25)]
    assert not data_threads()


def test_without_a_stop_it_goes_on():
    values = prefetch(lambda n: n, 7)
    assert list(itertools.islice(values, 50)) == list(range(7, 57))
    values.close()


def test_no_more_than_depth_values_are_made_ahead():
    made = []
    values = prefetch(lambda n: made.append(n) or n, 0, depth=3)
    assert next(values) == 0
    deadline = time.monotonic() + 60
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.05)
    assert made == [0, 1, 2, 3]
    values.close()


def test_an_exception_is_raised_at_its_place():
    def fails_at_three(n):
        if n == 3:
            raise RuntimeError("broken example 3")
        return n

    values = prefetch(fails_at_three, 0, depth=2, num_threads=2)
    assert [next(values) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(RuntimeError, match="broken example 3"):
        next(values)
    assert not data_threads()


def test_leaving_the_loop_ends_the_threads_and_drops_what_has_not_begun():
    made = []

    def slow(n):
        made.append(n)
        time.sleep(0.05)
        return n

    values = prefetch(slow, 0, depth=200)
    assert next(values) == 0
    assert data_threads()
    values.close()
    assert not data_threads()
    assert len(made) < 100


@pytest.mark.parametrize("wrong", [{"depth": -1}, {"num_threads": 0}])
def test_impossible_settings_are_refused_at_once(wrong):
    with pytest.raises(ValueError, match="prefetch needs depth >= 0 and num_threads >= 1, got"):
        prefetch(lambda n: n, 0, **wrong)
