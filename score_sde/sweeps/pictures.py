"""The metric of a sweep's trials against each axis."""

import math
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from score_sde.plots.curves import plain_ticks
from score_sde.plots.style import INK, LINE_COLORS, label_axes, new_figure, save_figure
from score_sde.sweeps.axes import canonical
from score_sde.sweeps.metric import Metric
from score_sde.sweeps.status import Row, labels

DECADE = 10.0  # an axis is logarithmic if its values are positive and span at least this factor
MOST_COLORS, COLUMNS, FEW = len(LINE_COLORS), 3, 5
MOST_NAMED = 40  # the most categories that all have their name beside them
WIDEST = 0.6  # trials at one place are spread over this fraction of the space between two places


class Places(NamedTuple):
    """The places of the trials on an axis, in the order of the trials.

    Attributes:
      values: numbers, or the numbers of the categories.
      names: the names of the categories. None for numbers.
    """

    values: Float[np.ndarray, " n"]
    names: list[str] | None
    logarithmic: bool


def metric_against_axes(found: Sequence[Row], metric: Metric, path: pathlib.Path) -> pathlib.Path:
    """Draws one panel for each axis with several values: a point per trial, with ± one standard error where known.

    Numbers lie on a linear axis, or on a logarithmic axis where they span a decade. Other values
    are categories, one below the other. Trials at the same place are drawn beside each other. The
    colour is the value on the first other axis that has few values.

    Raises: ValueError when no trial has a value yet.
    """
    drawn = [row for row in found if row.value is not None and math.isfinite(row.value)]
    if not drawn:
        raise ValueError(f"A plot needs a trial that has the metric {metric.name!r}; none has it yet.")
    fields = list(drawn[0].point)
    varied = [field for field in fields if len({canonical(row.point[field]) for row in drawn}) > 1] or fields
    placed = {field: places([row.point[field] for row in drawn]) for field in varied}
    columns = min(COLUMNS, len(varied))
    lines = -(-len(varied) // columns)
    height = max(3.6, *(0.6 + 0.24 * len(set(p.names)) for p in placed.values() if p.names), 0)
    figure, axes = new_figure(max(4.6 * columns, 5.2), (height + 0.5) * lines + 0.4, lines, columns)
    for index, panel in enumerate(axes.flat):
        if index >= len(varied):
            panel.set_visible(False)
            continue
        others = [field for field in varied if field != varied[index]]
        _panel(panel, drawn, placed[varied[index]], _color_field(drawn, others))
        names = (metric.title, varied[index]) if placed[varied[index]].names else (varied[index], metric.title)
        label_axes(panel, None, *names)
    bars = ", ± 1 standard error" if any(row.error for row in drawn) else ""
    title = f"{metric.title} of {len(drawn)} trial{'s' * (len(drawn) > 1)}{bars}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11.5, fontweight="bold", color=INK)
    return save_figure(figure, path)


def places(values: Sequence[Any]) -> Places:
    """The values if all are numbers, else categories.

    Categories keep the order of their first trials. For ranked trials, this is the order of their
    best trials.
    """
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        numbers = np.asarray(values, np.float64)
        return Places(numbers, None, bool(numbers.min() > 0 and numbers.max() >= DECADE * numbers.min()))
    names = labels(values)
    order = list(dict.fromkeys(names))
    return Places(np.asarray([order.index(name) for name in names], np.float64), names, False)


def spread(placed: Places, groups: Sequence[str], heights: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The places, with trials at the same place moved apart: ordered by group, then by value."""
    at = np.log10(placed.values) if placed.logarithmic else placed.values
    distinct = np.unique(at)
    if len(distinct) == len(at):
        return placed.values
    gap = float(np.diff(distinct).min()) if len(distinct) > 1 else 1.0
    most = max(int((at == place).sum()) for place in distinct)
    step = min(WIDEST * gap / max(most - 1, 1), 0.08 * gap * len(distinct))
    moved = at.copy()
    for place in distinct:
        (mine,) = np.nonzero(at == place)
        order = sorted(mine, key=lambda i: (groups[i], heights[i]))
        moved[order] += step * (np.arange(len(mine)) - (len(mine) - 1) / 2)
    return 10**moved if placed.logarithmic else moved


def _panel(panel: Any, drawn: Sequence[Row], placed: Places, color_field: str | None) -> None:
    groups = labels([row.point[color_field] for row in drawn]) if color_field else [""] * len(drawn)
    heights = np.asarray([row.value for row in drawn], np.float64)
    errors = np.asarray([row.error or 0.0 for row in drawn], np.float64)
    at = spread(placed, groups, heights)
    style: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 5.5, "capsize": 3, "elinewidth": 1.2}
    for index, group in enumerate(sorted(set(groups))):
        mine = np.asarray([name == group for name in groups])
        bars = errors[mine] if errors.any() else None
        x, y, sides = (heights, at, {"xerr": bars}) if placed.names else (at, heights, {"yerr": bars})
        text = f"{color_field} {group}" if color_field else None
        panel.errorbar(
            x[mine], y[mine], label=text, color=LINE_COLORS[index % MOST_COLORS], alpha=0.85, **sides, **style
        )
    _ticks(panel, placed)
    if color_field:
        panel.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), labelcolor=INK, ncols=2)


def _ticks(panel: Any, placed: Places) -> None:
    if placed.names:
        order = list(dict.fromkeys(placed.names))
        step = -(-len(order) // MOST_NAMED)
        panel.set_yticks(range(0, len(order), step), order[::step])
        panel.set_ylim(len(order) - 0.4, -0.6)
        return
    distinct = sorted(set(placed.values.tolist()))
    if placed.logarithmic:
        plain_ticks(panel.xaxis, placed.values)
    if len(distinct) <= FEW:
        panel.set_xticks(distinct, [f"{place:g}" for place in distinct])
        panel.minorticks_off()
    panel.margins(x=0.15)


def _color_field(drawn: Sequence[Row], fields: Sequence[str]) -> str | None:
    for field in fields:
        if len({canonical(row.point[field]) for row in drawn}) <= MOST_COLORS:
            return field
    return None
