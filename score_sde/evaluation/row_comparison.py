"""Which rows of ledgers compare: what differs between two, and which points may be joined by a line.

Each number has settings of its own that must be equal: those of samples their features, count and reference; those of the
model the held-out data and how the likelihood is computed.
"""

from collections.abc import Sequence
from typing import Any

from score_sde.config import differences as config_differences
from score_sde.evaluation.ledger import Row, cell, error_of, row_value, with_error
from score_sde.evaluation.metric_names import metric_of
from score_sde.plots.html_report import flatten

# Differ between any two evaluations, and say nothing about the number.
_INCIDENTAL = ("date", "seconds", "images_per_second", "images_drawn", "command", "results", "warnings")
# What a number of an unknown metric depends on: it is taken for a distance of samples from a reference.
_OF_A_DISTANCE = ("features", "extractor_digest", "num_samples", "reference.digest")
DIGITS = 8  # of a digest, in a label
# What an axis tells already, by the end of the field's name.
_HIDDEN = {"nfe": ("num_steps", "rtol", "atol"), "images": ("step",), "ema": ("ema",)}


def settings(row: Row, metric: str) -> dict[str, Any]:
    """What must be equal where two numbers of a metric are compared: field -> value, without those that the row lacks."""
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
    """Fields of the row, or of the "result": the row tells them of a metric from outside, and ours tells its own."""
    told = row.values["results"][metric].get("compared")
    if isinstance(told, list) and all(isinstance(field, str) for field in told):
        return tuple(told)
    ours = metric_of(metric)
    return _OF_A_DISTANCE if ours is None else ours.compared


def _rounded(value: Any) -> Any:
    """A list of numbers to three digits, which devices may round differently."""
    numbers = isinstance(value, list) and all(isinstance(v, float | int) for v in value)
    return [round(v, 3) for v in value] if numbers else value


class _Missing:
    """Where a row does not have a field; None is a value."""


def judgement(one: Row, other: Row, metric: str) -> str:
    """Why the numbers of a metric in two rows do not compare, or cannot be judged; empty where they compare."""
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
    """What differs between two rows, then their metrics side by side, each with whether the two numbers compare."""
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
    """{label: (x, values, errors)}, each sorted by x; errors are 0 where they are not known.

    Rows are joined where nothing but the axis differs that the number depends on; a label tells what differs between curves.

    Args: against: "nfe", "images" (seen in training) or "ema" (half-life in thousands of images).
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
    """All that a number depends on but the axis, as text."""
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
    """Of each group what is not the same in all; of a single one the folder."""
    names = dict.fromkeys(name for group in groups for name in group)
    differ = [name for name in names if len({group.get(name) for group in groups}) > 1]
    shown = {name: _short([group.get(name) for group in groups]) for name in differ or ["workdir"]}
    return [", ".join(f"{name}={shown[name][i]}" for name in shown) for i in range(len(groups))]


def _short(values: Sequence[str | None]) -> list[str]:
    """The values, of paths their last part and of digests the first digits where these tell them apart as well."""
    short = [cell(value)[: DIGITS if value is not None and len(value) == 64 else None] for value in values]
    return short if len(set(short)) == len(set(values)) else [str(value) for value in values]
