import contextlib
import io
import re

import jax.numpy as jnp
import pytest

from score_sde.training.progress import Progress, duration


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    """Time that stands still until it is moved."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def run(stream, start=0, total=1000, seconds_per_step=0.5, **kwargs):
    clock = Clock()
    with Progress(total, start, batch_size=64, stream=stream, clock=clock, **kwargs) as progress:
        clock.now += 20  # compiling
        for step in range(start + 1, total + 1):
            progress.update(step, {"loss": 1 / step})
            clock.now += seconds_per_step
    return stream.getvalue(), progress


def test_without_a_terminal_a_line_comes_every_tenth():
    text, _ = run(io.StringIO(), interval_seconds=1e9)
    lines = text.splitlines()
    assert [int(re.search(r"step (\d+)/1000", line)[1]) for line in lines] == [1, *range(100, 1001, 100)]
    assert lines[5] == "train  50% step 500/1000 loss 0.002, 128 images/s, 4:10 left"
    assert lines[-1].startswith("train 100% step 1000/1000 loss 0.001, 128 images/s, took 8:")
    assert "\r" not in text


def test_without_a_terminal_a_line_comes_every_interval():
    text, _ = run(io.StringIO(), total=100, interval_seconds=30.0, seconds_per_step=20.0)
    assert (
        len(text.splitlines()) == 51
    )  # the interval is over at every second step; the tenths and the end fall on those


def test_speed_leaves_out_compilation_and_steps_before_a_resume():
    text, progress = run(io.StringIO(), start=900, total=1000)
    assert progress.examples_per_second == pytest.approx(128)
    first = text.splitlines()[0]
    assert first == "train  90% step 901/1000 loss 0.00111"  # one step tells no speed


def test_speed_is_that_of_the_last_half_minute():
    clock = Clock()
    progress = Progress(10_000, batch_size=10, stream=io.StringIO(), clock=clock)
    assert progress.examples_per_second is None
    for step in range(1, 200):
        clock.now += 10.0 if step < 100 else 1.0
        progress.update(step)
    assert progress.examples_per_second == pytest.approx(10.0)
    progress.close()


def test_terminal_shows_one_line_that_moves():
    text, _ = run(Terminal(), start=250, total=500)
    assert text.count("\n") == 1
    last = text.split("\r")[-1]
    for expected in ("train 100%", "500/500", "loss 0.002", "128 images/s", "took 2:"):
        assert expected in last
    assert "50%" in text.split("\r")[1]


def test_quiet_shows_nothing():
    for stream in (io.StringIO(), Terminal()):
        assert run(stream, quiet=True)[0] == ""


def test_scalars_are_looked_at_only_when_shown():
    class Watched:
        looks = 0

        def __float__(self):
            Watched.looks += 1
            return 1.0

    clock = Clock()
    with Progress(1000, stream=io.StringIO(), clock=clock) as progress:
        for step in range(1, 1001):
            clock.now += 0.001
            progress.update(step, {"loss": Watched()})
    assert Watched.looks == 11


def test_jax_scalars_and_interruptions_are_shown():
    stream = io.StringIO()
    with contextlib.suppress(KeyboardInterrupt), Progress(1000, stream=stream) as progress:
        progress.update(1, {"loss": jnp.float32(jnp.nan)})
        progress.update(42, {"loss": jnp.float32(0.25)})
        raise KeyboardInterrupt
    lines = stream.getvalue().splitlines()
    assert "loss nan" in lines[0]
    assert "step 42/1000 loss 0.25" in lines[-1]


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (75, "1:15"), (3599.9, "1:00:00"), (7384, "2:03:04")])
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_ranges_are_checked():
    with pytest.raises(
        ValueError, match=r"0 <= start_step <= total_steps and batch_size >= 1, got start_step=5, total_st"
    ):
        Progress(4, start_step=5)
