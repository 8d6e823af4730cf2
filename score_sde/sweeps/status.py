"""The status of a sweep as a table, and as a picture of the metric against each axis."""

import dataclasses
import math
from collections.abc import Sequence

from score_sde.sweeps.axes import canonical
from score_sde.sweeps.metric import Metric
from score_sde.sweeps.search import Point
from score_sde.sweeps.trial import Trial, label
from score_sde.training.logs.stages import duration


@dataclasses.dataclass(frozen=True)
class Row:
    """One trial. `value` and `error` are None where the trial does not have them yet."""

    name: str
    state: str
    step: int
    num_steps: int
    point: Point
    value: float | None
    error: float | None
    seconds: float
    retries: int
    message: str


def rows(trials: Sequence[Trial], metric: Metric, alive: bool) -> list[Row]:
    """The trials, best first. Trials without a value come last.

    Args:
      trials: the trials of the sweep.
      metric: the metric, read for every trial that has it.
      alive: whether a sweep runs here. If none runs, only trials with a job on a cluster can still
        be running.
    Raises: ValueError when a finished trial does not have the metric, with the closest name that it
      has.
    """
    found = [_row(trial, metric, alive) for trial in trials]
    sign = 1 if metric.goal == "minimize" else -1
    worst = math.inf

    def rank(row: Row) -> tuple[float, float]:
        done = 0.0 if row.state == "finished" else 1.0
        return done, worst if row.value is None or math.isnan(row.value) else sign * row.value

    return sorted(found, key=rank)


def _row(trial: Trial, metric: Metric, alive: bool) -> Row:
    record, step = trial.record(), trial.step
    state, value, error = record.state, None, None
    try:
        value, error = metric.read(trial.folder), metric.read_error(trial.folder)
    except ValueError:
        if state == "finished":
            raise
    if state == "running" and not alive and not trial.job:
        state = "stopped"
    if state == "queued" and step > 0:  # a pod writes no record, so its files are used
        state = "running"
    return Row(
        name=trial.name,
        state=state,
        step=step,
        num_steps=trial.num_steps,
        point=trial.point,
        value=value,
        error=error,
        seconds=float(record.seconds),
        retries=record.retries,
        message=record.message,
    )


def labels(values: Sequence[object]) -> list[str]:
    """The values in a few letters each, or in full where the short forms would be equal."""
    short = {canonical(value): label(value) for value in values}
    return [short[canonical(v)] if len(set(short.values())) == len(short) else canonical(v) for v in values]


def table(found: Sequence[Row], metric: Metric) -> str:
    """The rows as an aligned Markdown table, followed by the reasons why trials failed."""
    fields = list(found[0].point) if found else []
    columns = {field: labels([row.point[field] for row in found]) for field in fields}
    header = [*fields, metric.title, "state", "step", "time", "retries", "trial"]
    cells = [header, *([columns[f][i] for f in fields] + _cells(row) for i, row in enumerate(found))]
    widths = [max(len(line[i]) for line in cells) for i in range(len(header))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    failed = [f"{row.name} failed: {row.message}" for row in found if row.state == "failed"]
    return "\n".join([*lines, *failed])


def _cells(row: Row) -> list[str]:
    value = "" if row.value is None else f"{row.value:.5g}"
    value += f" ± {row.error:.2g}" if row.value is not None and row.error is not None else ""
    steps = f"{row.step}/{row.num_steps}"
    return [value, row.state, steps, duration(row.seconds), str(row.retries), row.name]
