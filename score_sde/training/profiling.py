"""Profiling: seconds by part, FLOP/s, memory, and the profiler's trace of chosen steps."""

import contextlib
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax

from score_sde import parallel
from score_sde.training.state import TrainState
from score_sde.training.step import CompiledStep, Step

PROFILE_FOLDER = "profile"


class Compiled(NamedTuple):
    """A compiled step: its function, the seconds of compilation, and its FLOPs on all devices (None: unknown)."""

    step: Step
    seconds: float
    flops: float | None


def compile_step(step: CompiledStep | jax.stages.Wrapped, state: TrainState, batch: Mapping[str, Any]) -> Compiled:
    """Compiles `step` once for arguments like these, or of these shapes and shardings. Nothing is computed."""
    before = time.perf_counter()
    program = step.lower(state, batch).compile()
    parallel.meet("the step is compiled")
    seconds = time.perf_counter() - before
    per_device = (program.cost_analysis() or {}).get("flops")
    number = len(jax.tree.leaves(batch)[0].sharding.device_set)
    return Compiled(program, seconds, per_device * number if per_device and per_device > 0 else None)


class Stopwatch:
    """The seconds since the last log line, by part: "data" (waiting for a batch), "save" (blocked by a checkpoint), "other".

    Args:
      batch_size: examples per step, over all processes.
      compile_seconds: the time of compilation, which is written in the first line only.
      flops: the FLOPs of one step on all devices. None where they are not known.
    """

    def __init__(self, batch_size: int, compile_seconds: float | None = None, flops: float | None = None) -> None:
        self._batch_size, self._flops = batch_size, flops
        self._compile_seconds = compile_seconds
        self._parts: dict[str, float] = {}
        self._since, self._steps = time.perf_counter(), 0

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A context whose time counts as `name`."""
        before = time.perf_counter()
        try:
            yield
        finally:
            self._parts[name] = self._parts.get(name, 0.0) + time.perf_counter() - before

    def count_step(self) -> None:
        """Counts one more step since the last line."""
        self._steps += 1

    def take(self) -> dict[str, float]:
        """The line of timing.jsonl. Its times leave out checkpoints and evaluations.

        The stopwatch then starts again from 0.
        """
        now, steps = time.perf_counter(), self._steps
        blocked, other = self._parts.get("save", 0.0), self._parts.get("other", 0.0)
        seconds = max(now - self._since - blocked - other, 1e-9)
        line = {
            "step_seconds": seconds / steps,
            "images_per_second": steps * self._batch_size / seconds,
            "data_wait": self._parts.get("data", 0.0) / seconds,
        }
        if blocked:
            line["checkpoint_seconds"] = blocked
        if self._compile_seconds is not None:
            line["compile_seconds"], self._compile_seconds = self._compile_seconds, None
        if self._flops is not None:
            line["flops_per_second"] = self._flops * steps / seconds
        if (memory := peak_device_bytes()) is not None:
            line["device_bytes"] = memory
        self._parts, self._since, self._steps = {}, now, 0
        return line


def peak_device_bytes() -> int | None:
    """The largest memory use so far on one device of this process. None where the backend does not tell, as on CPU."""
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
    return max((peak for peak in peaks if peak is not None), default=None)


class Trace:
    """Writes the JAX profiler's trace of steps `start` to `stop` − 1 into a folder, for TensorBoard, XProf or Perfetto.

    The trace begins when the steps before it have been computed, and ends when its own steps have
    been computed. Each step is marked with its number.

    Args:
      steps: (start, stop), both >= 1. None traces nothing. A run that resumes after `start` begins
        the trace at its first step.
    Raises: ValueError for an empty or negative range.
    """

    def __init__(self, workdir: pathlib.Path, steps: tuple[int, int] | None = None) -> None:
        if steps is not None and not 1 <= steps[0] < steps[1]:
            raise ValueError(
                f"profile_steps needs START:STOP with 1 <= START < STOP (steps are counted from 1), got {steps[0]}:{steps[1]}."
            )
        self._folder, self._steps, self._on = workdir / PROFILE_FOLDER, steps, False

    @contextlib.contextmanager
    def step(self, number: int, before: Any) -> Iterator[None]:
        """A context for the call of a step. `before` (the state) must be computed before the trace begins."""
        if self._steps is None or not self._steps[0] <= number < self._steps[1]:
            yield
            return
        if not self._on:
            jax.block_until_ready(before)
            jax.profiler.start_trace(str(self._folder))
            self._on = True
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield

    def finish(self, number: int, result: Any, last: bool = False) -> None:
        """Ends the trace after its last step, or the last step of the run, when `result` has been computed."""
        if self._on and self._steps is not None and (last or number + 1 >= self._steps[1]):
            jax.block_until_ready(result)
            self.close()

    def close(self) -> None:
        """Ends a trace that is still running."""
        if self._on:
            jax.profiler.stop_trace()
            self._on = False


def parse_steps(text: str | None) -> tuple[int, int] | None:
    """(start, stop) of "START:STOP".

    Raises: ValueError for anything else.
    """
    if not text:
        return None
    start, colon, stop = text.partition(":")
    if not (colon and start.isdigit() and stop.isdigit()):
        raise ValueError(f"profile_steps needs START:STOP, two numbers of steps, got {text!r}.")
    return int(start), int(stop)
