"""A metric against a cost or a choice: evaluations, training images, the half-life of an average."""

import os
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.plots.curves import scale_axis, step_formatter
from score_sde.plots.style import LINE_COLORS, MARKERS, add_legend, label_axes, new_figure, save_figure

WIDTH = 80  # characters of a line of the legend, about as wide as the figure
INSIDE = 40  # a longer label would cover the curves: the legend goes below the axes


def metric_curves(
    curves: Mapping[str, tuple[Any, Any, Any]], path: str | os.PathLike[str], x_name: str, y_name: str, title: str = ""
) -> Path:
    """Draws {label: (x, values, errors)} with a point for each value, and a bar where its error is known (not 0).

    Long labels stand below the axes, in several lines.

    Raises: ValueError for no curve.
    """
    if not curves:
        raise ValueError("metric_curves needs at least one curve, got none; pass {label: (x, values, errors)}.")
    figure, [[axes]] = new_figure(7.2, 3.8)
    style: dict[str, Any] = {"linewidth": 1.6, "marker": "o", "markersize": 4.5, "capsize": 3, "elinewidth": 1.2}
    for i, (label, (x, values, errors)) in enumerate(curves.items()):
        style |= {"color": LINE_COLORS[i % len(LINE_COLORS)], "marker": MARKERS[i % len(MARKERS)]}
        bars = np.asarray(errors) if np.any(errors) else None
        axes.errorbar(np.asarray(x), np.asarray(values), yerr=bars, label=textwrap.fill(label, WIDTH), **style)
    x = np.concatenate([np.asarray(curve[0], float) for curve in curves.values()])
    scale_axis(axes.xaxis, x)
    if x.max() >= 1e4:
        axes.xaxis.set_major_formatter(step_formatter())
    scale_axis(axes.yaxis, np.concatenate([np.asarray(curve[1], float) for curve in curves.values()]))
    label_axes(axes, title or None, x_name, y_name)
    below = max(map(len, curves)) > INSIDE
    add_legend(axes, **({"loc": "upper left", "bbox_to_anchor": (0, -0.2), "borderpad": 0} if below else {}))
    return save_figure(figure, path)


def metric_panels(
    panels: Mapping[str, Mapping[str, tuple[Any, Any, Any]]],
    path: str | os.PathLike[str],
    x_name: str,
    title: str = "",
) -> Path:
    """Draws {title of a panel: {label: (x, values, errors)}} side by side, on linear axes with one legend.

    A label has the same colour in all panels. A label that ends in ", interval" has the colour of
    the label without it, and a dashed line.

    Raises: ValueError for no panel.
    """
    if not panels:
        raise ValueError(
            "metric_panels needs at least one panel, got none; pass {title: {label: (x, values, errors)}}."
        )
    figure, axes = new_figure(3.6 * len(panels), 4.2, 1, len(panels))
    names = list(dict.fromkeys(label.removesuffix(", interval") for curves in panels.values() for label in curves))
    for one, (panel, curves) in zip(axes[0], panels.items(), strict=True):
        for label, (x, values, errors) in curves.items():
            i = names.index(label.removesuffix(", interval"))
            style = {"color": LINE_COLORS[i % len(LINE_COLORS)], "marker": MARKERS[i % len(MARKERS)], "markersize": 4.5}
            line = "--" if label.endswith(", interval") else "-"
            bars = np.asarray(errors) if np.any(errors) else None
            one.errorbar(x, values, yerr=bars, label=label, linewidth=1.5, capsize=2, linestyle=line, **style)
        label_axes(one, panel, x_name, "")
    handles = dict(zip(*reversed(axes[0, 0].get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2, frameon=False, fontsize=8.5)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11.5, fontweight="bold")
    return save_figure(figure, path)
