"""The metric of a sweep's trials against each axis."""

import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from score_sde.plots.style import LINE_COLORS, add_legend, label_axes, new_figure, save_figure
from score_sde.sweeps.axes import canonical
from score_sde.sweeps.metric import Metric
from score_sde.sweeps.status import Row, labels

DECADE = 10.0  # an axis whose values are positive and span as much is logarithmic
MOST_COLORS, COLUMNS, FEW = len(LINE_COLORS), 3, 5


def metric_against_axes(found: Sequence[Row], metric: Metric, path: pathlib.Path) -> pathlib.Path:
    """Draws one panel an axis that takes several values: a point a trial, with ± one standard error where it is known.

    Numbers lie on a linear axis, or a logarithmic one where they span a decade; anything else is a category. The colour is
    the value on the first other axis that has few.

    Raises: ValueError when no trial has a value yet.
    """
    drawn = [row for row in found if row.value is not None and math.isfinite(row.value)]
    if not drawn:
        raise ValueError(f"A plot needs a trial that has the metric {metric.name!r}; none has it yet.")
    fields = list(drawn[0].point)
    varied = [field for field in fields if len({canonical(row.point[field]) for row in drawn}) > 1] or fields
    columns = min(COLUMNS, len(varied))
    figure, axes = new_figure(
        max(4.4 * columns, 5.0), 3.6 * -(-len(varied) // columns), -(-len(varied) // columns), columns
    )
    for index, panel in enumerate(axes.flat):
        if index >= len(varied):
            panel.set_visible(False)
            continue
        others = [field for field in varied if field != varied[index]]
        _panel(panel, drawn, varied[index], _color_field(drawn, others))
        label_axes(panel, None, varied[index], metric.title)
    return save_figure(figure, path)


def _panel(panel: Any, drawn: Sequence[Row], field: str, color_field: str | None) -> None:
    values = [row.point[field] for row in drawn]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        places = np.asarray(values, np.float64)
        if places.min() > 0 and places.max() >= DECADE * places.min():
            panel.set_xscale("log")
        distinct = sorted(set(places.tolist()))
        if len(distinct) <= FEW:
            panel.set_xticks(distinct, [f"{place:g}" for place in distinct])
            panel.minorticks_off()
        panel.margins(x=0.15)
    else:
        names = labels(values)
        order = sorted(set(names), key=names.index) if len(set(names)) > 12 else sorted(set(names))
        places = np.asarray([order.index(name) for name in names], np.float64)
        panel.set_xticks(range(len(order)), order, rotation=30 if sum(map(len, order)) > 40 else 0)
        panel.margins(x=0.15)
    groups = labels([row.point[color_field] for row in drawn]) if color_field else [""] * len(drawn)
    heights = np.asarray([row.value for row in drawn], np.float64)
    errors = np.asarray([row.error or 0.0 for row in drawn], np.float64)
    style: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 6, "capsize": 3, "elinewidth": 1.2}
    for index, group in enumerate(sorted(set(groups))):
        mine = np.asarray([name == group for name in groups])
        text = f"{color_field} {group}" if color_field else None
        color = LINE_COLORS[index % MOST_COLORS]
        panel.errorbar(places[mine], heights[mine], yerr=errors[mine], label=text, color=color, **style)
    add_legend(panel)


def _color_field(drawn: Sequence[Row], fields: Sequence[str]) -> str | None:
    for field in fields:
        if len({canonical(row.point[field]) for row in drawn}) <= MOST_COLORS:
            return field
    return None
