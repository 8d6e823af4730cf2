"""The metrics of one training, or of several together, with a panel for each metric."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from score_sde.plots.curves import draw_series, scale_axis, step_formatter
from score_sde.plots.style import COLORS, INK, label_axes, new_figure, save_figure


class Panel(NamedTuple):
    """A metric of each run: its title, its unit, and run -> (steps, values)."""

    title: str
    unit: str
    curves: Mapping[str, tuple[Any, Any]]


def training_curves(panels: Sequence[Panel], path: str | os.PathLike[str]) -> Path:
    """Draws the panels against the step, two in each row. A run has the same colour in all panels.

    Raises: ValueError where no panel has a curve.
    """
    panels = [panel for panel in panels if panel.curves]
    if not panels:
        raise ValueError("training_curves needs at least one curve, got none; train first.")
    names = list(dict.fromkeys(name for panel in panels for name in panel.curves))
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = new_figure(5.4 * columns, 3.1 * lines + (0.5 if len(names) > 1 else 0), lines, columns)
    for index, one in enumerate(axes.flat):
        if index >= len(panels):
            one.set_visible(False)
            continue
        panel, seen = panels[index], []
        for name, (steps, values) in panel.curves.items():
            color = COLORS[names.index(name) % len(COLORS)]
            seen.append(draw_series(one, name, np.asarray(steps), np.asarray(values, np.float64), color))
        scale_axis(one.yaxis, np.concatenate(seen))
        one.xaxis.set_major_formatter(step_formatter())
        one.margins(x=0.01)
        label_axes(one, panel.title, "training step", panel.unit)
    if len(names) > 1:
        found: dict[str, Any] = {}
        for one in axes.flat:
            handles, labels = one.get_legend_handles_labels()
            found |= {label: handle for handle, label in zip(handles, labels, strict=True) if label in names}
        options: dict[str, Any] = {"loc": "outside lower center", "frameon": False, "fontsize": 9, "labelcolor": INK}
        figure.legend(found.values(), found.keys(), ncols=min(4, len(names)), **options)
    return save_figure(figure, path)
