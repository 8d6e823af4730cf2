import contextlib
import io
import re
import threading

import jax.numpy as jnp
import pytest

from score_sde.training.logs import stages
from score_sde.training.logs.progress import Progress
from score_sde.training.logs.stages import duration, stage


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


def test_what_says_nothing_is_named_after_five_seconds():
    """Until the first step, in a stage, and between two slow steps; with seconds, and how long it took in the end."""
    clock, stream = Clock(), io.StringIO()
    with Progress(3, stream=stream, clock=clock, name="sample") as progress:
        for seconds in (4, 1, 29, 1):
            clock.now += seconds
            progress._tick()
        with progress.during("compiling"):
            clock.now += 6
            progress._tick()
        progress.update(1)
        with progress.during("saving"):
            clock.now += 4
            progress._tick()
        clock.now += 31
        progress._tick()
        progress.update(2)
    assert stream.getvalue().splitlines() == [
        "sample: the first step, with its compilation … 0:05",
        "sample: the first step, with its compilation … 0:35",
        "sample: compiling … 0:06",
        "sample: compiling: 0:06",
        "sample  33% step 1/3 ",
        "sample: step 2 … 0:35",
        "sample  66% step 2/3 0.0 images/s, 0:31 left",
    ]


def test_a_finished_or_a_quick_run_is_not_named():
    clock, stream = Clock(), io.StringIO()
    with Progress(2, 2, stream=stream, clock=clock) as progress:
        clock.now += 100
        progress._tick()
    with stage("quick", stream=stream, clock=clock):
        clock.now += 4
    assert stream.getvalue() == ""


def test_time_left_is_without_evaluations():
    """Two steps a second, and an evaluation of 100 s after every tenth of 1,000: 4:10 are left at half of them."""
    clock, stream = Clock(), io.StringIO()
    with Progress(1000, stream=stream, clock=clock, interval_seconds=1e9) as progress:
        for step in range(1, 1001):
            clock.now += 0.5
            progress.update(step)
            if step % 100 == 0:
                with progress.during("evaluating"), progress.during("drawing"):
                    clock.now += 100
    assert stream.getvalue().splitlines()[5] == "train  50% step 500/1000 2.0 images/s, 4:10 left"


@pytest.mark.parametrize("terminal", [False, True])
def test_a_stage_is_named_by_its_heartbeat(monkeypatch, terminal):
    """A line on a terminal is renewed and cleared; elsewhere each stays."""
    monkeypatch.setattr(stages, "TICK", 0.001)
    stream, clock, named = Terminal() if terminal else io.StringIO(), Clock(), threading.Event()
    monkeypatch.setattr(stream, "flush", named.set)
    with stage("compiling the step", stream=stream, clock=clock):
        clock.now += 7
        assert named.wait(10)
        clock.now += 12
    text = stream.getvalue()
    assert "compiling the step … 0:07" in text and text.endswith("compiling the step: 0:19\n")
    assert text.startswith("\r") == terminal and text.count("\n") == (1 if terminal else 2)
    assert not [thread for thread in threading.enumerate() if thread.name == "heartbeat"]


def test_no_heartbeat_outlives_an_error():
    with contextlib.suppress(KeyboardInterrupt), Progress(5, stream=io.StringIO()), stage("compiling"):
        raise KeyboardInterrupt
    assert not [thread for thread in threading.enumerate() if thread.name == "heartbeat"]
