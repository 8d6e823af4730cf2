"""Times, FLOPs and traces."""

import time

import jax
import jax.numpy as jnp
import pytest

from score_sde.training.profiling import Stopwatch, Trace, compile_step, parse_steps
from score_sde.training.state import TrainState


def test_steps_are_parsed():
    assert parse_steps("10:12") == (10, 12) and parse_steps(None) is None
    for text in ("10", "10:", "a:b", "-1:3"):
        with pytest.raises(ValueError, match=f"profile_steps needs START:STOP, two numbers of steps, got {text!r}"):
            parse_steps(text)


def test_an_empty_range_is_refused(tmp_path):
    with pytest.raises(ValueError, match="needs START:STOP with 1 <= START < STOP .*got 5:5"):
        Trace(tmp_path, (5, 5))


def test_times_of_steps_leave_out_checkpoints_and_evaluations(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    watch = Stopwatch(10, compile_seconds=1.5, flops=100.0)
    for part, seconds in (("data", 0.25), ("save", 1.0), ("other", 2.0)):
        with watch.part(part):
            now[0] += seconds
        now[0] += 0.25  # in no part
    for _ in range(2):
        watch.count_step()
    line = watch.take()
    assert (line["step_seconds"], line["data_wait"]) == (0.5, 0.25)
    assert (line["checkpoint_seconds"], line["compile_seconds"]) == (1.0, 1.5)
    assert (line["flops_per_second"], line["images_per_second"]) == (200.0, 20.0)
    now[0] += 0.25
    watch.count_step()
    assert set(watch.take()) == {"step_seconds", "images_per_second", "data_wait", "flops_per_second"}


def test_a_step_is_compiled_once_and_its_flops_are_told():
    traced = []

    @jax.jit
    def step(state, batch):
        traced.append(1)
        return state._replace(step=state.step + 1), {"loss": jnp.sum(batch["x"] @ batch["x"].T)}, {}

    batch = {"x": jnp.ones((64, 32))}
    state = TrainState(jnp.zeros((), jnp.int32), {}, {}, ())
    program, seconds, flops = compile_step(step, state, batch)
    state, metrics, _ = program(state, batch)
    assert float(metrics["loss"]) == 64 * 64 * 32 and int(state.step) == 1 and len(traced) == 1
    assert seconds > 0 and flops == pytest.approx(2 * 64 * 64 * 32, rel=0.1)


def test_a_trace_is_of_its_steps_and_stops_with_the_run(tmp_path):
    trace, f = Trace(tmp_path, (2, 9)), jax.jit(lambda x: x + 1)
    x = jnp.zeros(3)
    for number in range(1, 4):
        with trace.step(number, x):
            x = f(x)
        trace.finish(number, x, last=number == 3)
        assert bool(list(tmp_path.rglob("*.xplane.pb"))) == (number == 3)
    data = next(tmp_path.rglob("*.xplane.pb")).read_bytes()
    assert b"train" in data and b"step_num" in data
