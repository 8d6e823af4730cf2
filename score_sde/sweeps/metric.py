"""The number by which the trials of a sweep are compared."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from score_sde.config import closest
from score_sde.internal import files
from score_sde.training.logs.logging import METRICS_FILE, Series, parse_line, read_metrics

REDUCTIONS: dict[str, Callable[[np.ndarray], Any]] = {
    "last": lambda values: values[-1],
    "min": np.min,
    "max": np.max,
    "mean": np.mean,
}


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric of metrics.jsonl by its name ("loss"), or a number in a JSON file of the workdir ("likelihood.json:mean").

    Attributes:
      name: the name of the metric, or FILE.json:PATH with dots into objects and lists.
      reduce: "last", "min", "max" or "mean" of a logged metric, or of a list in a JSON file.
      last: the number of last values to use. None is all values.
      goal: "minimize" or "maximize".
      error: FILE.json:PATH of the standard error of the metric, or None.
      label: the name in tables and plots. None is `name`.
    """

    name: str
    reduce: str = "last"
    last: int | None = None
    goal: str = "minimize"
    error: str | None = None
    label: str | None = None

    def __post_init__(self):
        if self.reduce not in REDUCTIONS or self.goal not in ("minimize", "maximize"):
            raise ValueError(
                f"A metric needs reduce in {sorted(REDUCTIONS)} and goal 'minimize' or 'maximize', "
                f"got {self.reduce!r}, {self.goal!r}."
            )
        if self.last is not None and self.last < 1:
            raise ValueError(f"A metric needs last >= 1, or None for all values, got {self.last}.")

    @property
    def is_logged(self) -> bool:
        """Whether the metric comes from metrics.jsonl, step by step."""
        return ".json:" not in self.name

    @property
    def title(self) -> str:
        """The heading of a table column or an axis."""
        if self.label is not None:
            return self.label
        number = f" of last {self.last}" if self.last else ""
        return self.name if self.reduce == "last" else f"{self.name} ({self.reduce}{number})"

    def read(self, workdir: pathlib.Path) -> float:
        """The value for the run in `workdir`.

        Raises: ValueError when the run has no such value, with the closest name.
        """
        if not self.is_logged:
            return self._reduced(read_json(workdir, self.name))
        return self._reduced(self.series(workdir).values.tolist())

    def read_error(self, workdir: pathlib.Path) -> float | None:
        """The standard error, if there is one."""
        return None if self.error is None else float(read_json(workdir, self.error))

    def series(self, workdir: pathlib.Path) -> Series:
        """(steps, values) as logged.

        Raises: ValueError when the metric was not logged.
        """
        path = workdir / METRICS_FILE
        logged = read_metrics(path) if path.is_file() else {}
        if self.name not in logged:
            raise ValueError(
                f"The metric {self.name!r} is not in {path}, which has {sorted(logged)}.{closest(self.name, list(logged))}"
            )
        return logged[self.name]

    def _reduced(self, value: Any) -> float:
        if isinstance(value, list):
            chosen = np.asarray(value[-self.last :] if self.last else value, np.float64)
            return float(REDUCTIONS[self.reduce](chosen))
        return float(value)


def read_json(workdir: pathlib.Path, name: str) -> Any:
    """The number, or list of numbers, at FILE.json:PATH.

    Raises: ValueError when there is none.
    """
    file, _, dotted = name.partition(":")
    path = workdir / file
    if not path.is_file():
        raise ValueError(
            f"The metric {name!r} needs the file {path}, which is not there; which command of `then` writes it?"
        )
    value = files.read_json(path, "run the command that writes it again", object)
    for part in dotted.split("."):
        inner = value if isinstance(value, dict | list) else []
        known = list(inner) if isinstance(inner, dict) else [str(i) for i in range(len(inner))]
        if part not in known:
            raise ValueError(f"The metric {name!r} needs {part!r} in {path}, which has {known}.{closest(part, known)}")
        value = value[part] if isinstance(value, dict) else value[int(part)]
    numbers = value if isinstance(value, list) else [value]
    if not numbers or not all(_is_number(number) for number in numbers):
        raise ValueError(f"The metric {name!r} needs a number, got {value!r} in {path}.")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 10**300)  # JSON has larger ones


def last_step(workdir: pathlib.Path) -> int:
    """The last step in metrics.jsonl, or 0 when there is none.

    Raises: ValueError for a damaged last line.
    """
    path = workdir / METRICS_FILE
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 65536))
        lines = file.read().split(b"\n")[:-1]
    return int(parse_line(lines[-1], "its last whole line", path)["step"]) if lines else 0
