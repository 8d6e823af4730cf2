"""Comparison of ledger rows: the differences of two rows, and the points that may be joined by a line.

Each number depends on settings that must be equal. For numbers of samples these are the features,
the count and the reference. For numbers of the model they are the held-out data and the computation
of the likelihood.
"""

from collections.abc import Sequence
from typing import Any

from score_sde.config import differences as config_differences
from score_sde.evaluation.ledger import Row, cell, error_of, row_value, with_error
from score_sde.evaluation.metric_names import metric_of
from score_sde.plots.html_report import flatten

# Fields that differ between any two evaluations and do not affect the number.
_INCIDENTAL = ("date", "seconds", "images_per_second", "images_drawn", "command", "results", "warnings")
# The fields on which a number of an unknown metric depends. It is treated as a distance of samples from a
# reference.
_OF_A_DISTANCE = ("features", "extractor_digest", "num_samples", "reference.digest")
DIGITS = 8  # of a digest, in a label
# Fields that an axis shows already, by the end of the field's name.
_HIDDEN = {"nfe": ("num_steps", "rtol", "atol"), "images": ("step",), "ema": ("ema",)}


def settings(row: Row, metric: str) -> dict[str, Any]:
    """Field -> value of the settings that must be equal for a comparison. Fields that the row lacks are left out."""
    known: dict[str, Any] = {**row.values, "result": row.values["results"][metric]}
    found = {}
    for field in _fields(row, metric):
        value: Any = known
        for name in field.split("."):
            value = value.get(name, _Missing) if isinstance(value, dict) else _Missing
        if value is not _Missing:
            found[field] = _rounded(value)
    return found


def _fields(row: Row, metric: str) -> tuple[str, ...]:
    """The fields, of the row or of the "result", on which a number depends.

    For a metric from outside, the row tells them. A metric of the package tells them itself.
    """
    told = row.values["results"][metric].get("compared")
    if isinstance(told, list) and all(isinstance(field, str) for field in told):
        return tuple(told)
    ours = metric_of(metric)
    return _OF_A_DISTANCE if ours is None else ours.compared


def _rounded(value: Any) -> Any:
    """A list of numbers rounded to three digits, because devices round differently."""
    numbers = isinstance(value, list) and all(isinstance(v, float | int) for v in value)
    return [round(v, 3) for v in value] if numbers else value


class _Missing:
    """The mark of a missing field. None is a value."""


def judgement(one: Row, other: Row, metric: str) -> str:
    """The reasons why the numbers of a metric in two rows cannot be compared. Empty where they can."""
    here, there = settings(one, metric), settings(other, metric)
    common = here.keys() & there.keys()
    differ = config_differences({name: here[name] for name in common}, {name: there[name] for name in common})
    if differ:
        return f"not comparable: {', '.join(text.split(':')[0] for text in differ)} differ"
    lacks = [
        f"row {row.number} has no {name}"
        for row, known in ((one, here), (other, there))
        for name in _fields(row, metric)
        if name not in known
    ]
    return f"whether they compare is not known: {', '.join(lacks)}" if lacks else ""


def differences(one: Row, other: Row) -> list[str]:
    """The differences of two rows, then their metrics side by side. Each says whether the two numbers can be compared."""
    known = [{k: v for k, v in row.values.items() if k not in _INCIDENTAL} for row in (one, other)]
    lines = [
        text.replace(" there, ", f" in row {one.number}, ").replace(" here", f" in row {other.number}")
        for text in config_differences(known[0], known[1])
    ]
    results = [row.values["results"] for row in (one, other)]
    for name in dict.fromkeys([*results[0], *results[1]]):
        cells = [with_error(found[name]) if name in found else "-" for found in results]
        judged = judgement(one, other, name) if name in results[0] and name in results[1] else ""
        lines.append(f"{name}: {cells[0]} | {cells[1]}" + (f"  ({judged})" if judged else ""))
    if not results[0].keys() & results[1].keys():
        lines.append(f"Rows {one.number} and {other.number} share no metric, so there is nothing to compare.")
    return lines


def curves(rows: Sequence[Row], metric: str, against: str) -> dict[str, tuple[list[float], list[float], list[float]]]:
    """{label: (x, values, errors)}, each sorted by x. Errors are 0 where they are not known.

    Rows are joined if nothing differs that the number depends on, except the axis. The label of a
    curve tells its differences from other curves.

    Args:
      against: "nfe", "images" (seen in training) or "ema" (half-life in thousands of images).
    Raises: ValueError for another axis, or where no row has both.
    """
    if against not in _HIDDEN:
        raise ValueError(f"--plot needs METRIC:nfe, METRIC:images or METRIC:ema, got {metric}:{against}.")
    groups: dict[str, tuple[dict[str, str], list[tuple[float, float, float]]]] = {}
    for row in rows:
        x, result = row_value(row, against), row.values["results"].get(metric)
        if result is None or x in (None, "none"):
            continue
        alike = _alike(row, metric, against)
        _, points = groups.setdefault(repr(sorted(alike.items())), (alike, []))
        points.append((float(x), float(result["value"]), float(error_of(result) or 0.0)))
    if not groups:
        known = sorted({name for row in rows for name in row.values["results"]})
        raise ValueError(f"No row has {metric!r} and {against!r}; metrics here: {known}.")
    labels = _labels([alike for alike, _ in groups.values()])
    joined = zip(labels, (points for _, points in groups.values()), strict=True)
    return {label: tuple(map(list, zip(*sorted(p), strict=True))) for label, p in joined}  # type: ignore[misc]


def _alike(row: Row, metric: str, against: str) -> dict[str, str]:
    """Everything that a number depends on, except the axis, as text."""
    values = row.values
    known = {"workdir": str(values.get("workdir", row.workdir)), "step": values.get("step"), "ema": values.get("ema")}
    if "num_samples" in _fields(row, metric):  # it is of samples
        known |= flatten(values.get("sampling", {}))
    known |= flatten(settings(row, metric))
    return {
        name: str(value)
        for name, value in known.items()
        if name.rpartition(".")[2] not in _HIDDEN[against] and value is not None
    }


def _labels(groups: Sequence[dict[str, str]]) -> list[str]:
    """For each group, the fields that differ between groups. For a single group, the folder."""
    names = dict.fromkeys(name for group in groups for name in group)
    differ = [name for name in names if len({group.get(name) for group in groups}) > 1]
    shown = {name: _short([group.get(name) for group in groups]) for name in differ or ["workdir"]}
    return [", ".join(f"{name}={shown[name][i]}" for name in shown) for i in range(len(groups))]


def _short(values: Sequence[str | None]) -> list[str]:
    """The values in a short form: the last part of a path, and the first digits of a digest.

    Values stay in full where the short forms would be equal.
    """
    short = [cell(value)[: DIGITS if value is not None and len(value) == 64 else None] for value in values]
    return short if len(set(short)) == len(set(values)) else [str(value) for value in values]
