"""Metrics on disk: one line of JSON per logged step, and TensorBoard events.

After a resume both continue without gaps or repeated steps. `metrics.jsonl` holds the computed
metrics and nothing from the clock. So a run that was stopped and resumed writes the same bytes as a
run that was not. `timing.jsonl` holds speeds and times. A line is

    {"step": 200, "loss": 0.0813, "grad_norm": 0.41}

JSON has no NaN and no infinities, so these are the strings "NaN", "Infinity" and "-Infinity".
read_metrics converts them back.
"""

import hashlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TextIO

import numpy as np

from score_sde.internal.files import parse_json, write_text

METRICS_FILE = "metrics.jsonl"
TIMING_FILE = "timing.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
_REMEDY = "delete that line, or move the file away"


class Series(NamedTuple):
    """One metric: the steps at which it was logged, increasing, and its values in float64."""

    steps: np.ndarray
    values: np.ndarray


class MetricLogger:
    """Writes metrics.jsonl, timing.jsonl and TensorBoard events in a folder.

    Before saving the checkpoint of step s, log step s and call `flush`. After a crash, the lines up
    to the checkpoint then exist. Later lines are dropped at the resume, and written again.

    Args:
      workdir: the folder, which is made if missing.
      resume_step: the step of the checkpoint from which the run continues. Later lines are dropped,
        and so is a line that a crash left half written. None means a new run: all earlier lines are
        dropped.
      is_writer: pass jax.process_index() == 0. The other processes write nothing.
      tensorboard: whether to write event files too.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        resume_step: int | None = None,
        is_writer: bool = True,
        tensorboard: bool = True,
    ) -> None:
        self._files: dict[str, TextIO] = {}
        self._events: Any = None
        self._last: dict[str, tuple[int, set[str]]] = {}
        workdir = self._workdir = Path(workdir)
        if not is_writer:
            return
        workdir.mkdir(parents=True, exist_ok=True)
        for name in (METRICS_FILE, TIMING_FILE):
            self._last[name] = drop_lines_after(workdir / name, resume_step)
            self._files[name] = (workdir / name).open("a", encoding="utf-8", buffering=1)
        if tensorboard:
            from score_sde.training.logs.events import Events

            self._events = Events(workdir / TENSORBOARD_FOLDER, 0 if resume_step is None else resume_step + 1)

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Writes one line of metrics: real scalars by name, as Python, NumPy or JAX numbers.

        Raises: ValueError if a value is not a real scalar, if a name is "step" or was logged at
          this step before, or if the step is before the last step.
        """
        self._write(METRICS_FILE, step, metrics, prefix="")

    def log_timing(self, step: int, timing: Mapping[str, Any]) -> None:
        """Writes one line of times and speeds, with "time", the seconds since 1970."""
        self._write(TIMING_FILE, step, {"time": round(time.time(), 3), **timing}, prefix="timing/")

    def log_image(self, step: int, name: str, image_u8: np.ndarray) -> None:
        """Writes a picture [h, w, 3] of 0…255 to TensorBoard. image_grid makes such pictures."""
        if image_u8.dtype != np.uint8 or image_u8.ndim != 3:
            raise ValueError(
                f"log_image needs a uint8 array [h, w, 3], got {image_u8.dtype} of shape {image_u8.shape}; "
                "make it with image_grid."
            )
        if self._events is not None:
            self._events.image(step, name, image_u8)

    def flush(self) -> None:
        """Writes everything logged so far to the disk, so that it survives a crash of the machine."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        if self._events is not None:
            self._events.flush()

    def digest(self) -> str | None:
        """The SHA-256 of metrics.jsonl as flushed. A resumed run compares it, to see whether the file was edited.

        None where this process is not the writer.
        """
        if METRICS_FILE not in self._files:
            return None
        return hashlib.sha256((self._workdir / METRICS_FILE).read_bytes()).hexdigest()

    def close(self) -> None:
        """Flushes and closes all files. A second call does nothing."""
        self.flush()
        for file in self._files.values():
            file.close()
        if self._events is not None:
            self._events.close()
        self._files, self._events = {}, None

    def __enter__(self) -> "MetricLogger":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, file: str, step: int, metrics: Mapping[str, Any], prefix: str) -> None:
        if file not in self._files:
            return
        step = int(step)
        values = {name: as_number(name, value) for name, value in metrics.items()}
        self._check_order(file, step, set(values) - {"time"})
        line = {"step": step} | {name: as_json(value) for name, value in values.items()}
        self._files[file].write(json.dumps(line, allow_nan=False) + "\n")
        if self._events is not None:
            for name in sorted(values.keys() - {"time"}):  # an event has its own time
                self._events.scalar(step, prefix + name, values[name])

    def _check_order(self, file: str, step: int, names: set[str]) -> None:
        last_step, last_names = self._last[file]
        if step > last_step:
            last_names = set()
        if step < last_step or "step" in names or names & last_names:
            raise ValueError(
                f"MetricLogger needs steps that do not go back, and each name once a step, got step {step} with "
                f"{', '.join(sorted(names))} after step {last_step} with {', '.join(sorted(last_names)) or 'nothing'}; "
                "pass resume_step to continue from an earlier checkpoint, and do not call a metric 'step'."
            )
        self._last[file] = step, last_names | names


def as_number(name: str, value: Any) -> float | int:
    """A real scalar as a Python number. It waits for a JAX array to be computed."""
    array = np.asarray(value)
    if array.shape != () or (array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16"):
        raise ValueError(
            f"MetricLogger needs a real scalar for {name!r}, got {array.dtype} of shape {array.shape}; log its mean."
        )
    return int(array) if array.dtype.kind in "biu" else float(array)


def as_json(value: float | int) -> float | int | str:
    """A finite number unchanged, and other numbers as "NaN", "Infinity" or "-Infinity"."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def drop_lines_after(path: Path, step: int | None) -> tuple[int, set[str]]:
    """Rewrites a log atomically without the lines after `step`. None drops all lines.

    Returns: the last step that is left and the names logged at it, or (−1, {}) for an empty log.
    """
    if not path.exists():
        return -1, set()
    kept = [] if step is None else [(line, row) for line, row in read_lines(path) if row["step"] <= step]
    write_text(path, "".join(line + "\n" for line, _ in kept))
    last = kept[-1][1]["step"] if kept else -1
    return last, {name for _, row in kept if row["step"] == last for name in row if name != "step"}


def read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (line, parsed line). A last line without its newline is a half-written line of a crash, and is skipped.

    Raises: ValueError for any other line that is not a JSON object with a step.
    """
    *lines, _ = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, start=1):
        yield line, parse_line(line, f"line {number}", path)


def parse_line(line: str | bytes, which: str, path: Path) -> dict[str, Any]:
    """The values of a line of a log: a step, and numbers.

    Raises: ValueError for anything else. The message says `which` line of `path` is damaged.
    """
    try:
        row = parse_json(line, which, _REMEDY)
        step = row["step"]
        valid = isinstance(step, int) and abs(step) < 2**63 and all(_is_logged(value) for value in row.values())
    except (ValueError, KeyError):
        valid = False
    if not valid:
        raise ValueError(
            f"{path} needs one JSON object with a step in each line, got {line[:80]!r} in {which}; its values are numbers, so "
            f"the file was damaged or edited: {_REMEDY}."
        )
    return row


def _is_logged(value: Any) -> bool:
    """Whether the value is a number as `as_json` writes it."""
    try:
        return isinstance(value, str | float | int) and float(value) is not None
    except (ValueError, OverflowError):
        return False


def read_metrics(path: str | os.PathLike[str]) -> dict[str, Series]:
    """Reads metrics.jsonl or timing.jsonl: name -> (steps, values), each metric at the steps where it was logged.

    Raises: FileNotFoundError if there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"read_metrics needs a {METRICS_FILE}, got {str(path)!r}, which is not there; train first."
        )
    points: dict[str, tuple[list[int], list[float]]] = {}
    for _, row in read_lines(path):
        for name, value in row.items():
            if name != "step":
                steps, values = points.setdefault(name, ([], []))
                steps.append(row["step"])
                values.append(float(value))
    return {name: Series(np.asarray(steps), np.asarray(values, np.float64)) for name, (steps, values) in points.items()}
