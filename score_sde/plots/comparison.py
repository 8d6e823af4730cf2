"""Error against the number of network evaluations, the picture that papers on solvers have; and points at each budget."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from score_sde.plots.curves import scale_axis
from score_sde.plots.style import BLUE, INK, MUTED, hide_axes, label_axes, new_figure, save_figure

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
COLORS = ("#2f6fb0", "#d9822b", "#3a8f6b", "#7b5ea7", "#c23b3b", "#4b9fb5", "#a0643c", "#616e7c", "#c77da6", "#8a9a2b")


def error_by_evaluations(
    panels: Mapping[str, Mapping[str, tuple[Any, Any]]],
    path: str | os.PathLike[str],
    units: Sequence[str],
    title: str = "",
    floors: Mapping[str, float] | None = None,
) -> Path:
    """Draws, side by side, errors against evaluations on logarithmic axes; a solver has one colour and marker in all.

    Args:
      panels: title of a panel -> {solver: (evaluations, errors)}.
      path: ends in .png, .svg or .pdf.
      units: the label of the vertical axis of each panel.
      floors: title of a panel -> what a perfect solver would have, as a dotted line.
    """
    if not panels or len(units) != len(panels):
        raise ValueError(
            f"error_by_evaluations needs a unit for each of its panels, got {len(panels)} and {len(units)}."
        )
    figure, axes = new_figure(5.2 * len(panels) + 1.6, 4.4, 1, len(panels))
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    for one, (panel, curves), unit in zip(axes[0], panels.items(), units, strict=True):
        for name, (evaluations, errors) in curves.items():
            i = names.index(name)
            style = {"color": COLORS[i % len(COLORS)], "marker": MARKERS[i % len(MARKERS)], "markersize": 5}
            line = "-" if i < len(COLORS) else "--"
            one.plot(evaluations, errors, linewidth=1.5, linestyle=line, label=name, **style)
        floor = (floors or {}).get(panel)
        if floor is not None:
            one.axhline(floor, color=MUTED, linestyle=":", linewidth=1.2)
            one.text(
                1.0,
                floor,
                "exact samples",
                ha="right",
                va="bottom",
                fontsize=8,
                color=MUTED,
                transform=one.get_yaxis_transform(),
            )
        scale_axis(one.xaxis, np.concatenate([np.asarray(c[0], float) for c in curves.values()]))
        scale_axis(one.yaxis, np.concatenate([np.asarray(c[1], float) for c in curves.values()]))
        label_axes(one, panel, "network evaluations", unit)
    handles = {label: handle for one in axes[0] for handle, label in zip(*one.get_legend_handles_labels(), strict=True)}
    figure.legend(
        handles.values(), handles.keys(), loc="outside right center", frameon=False, fontsize=8.5, labelcolor=INK
    )
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11.5, fontweight="bold", color=INK)
    return save_figure(figure, path)


def point_strips(
    points: Mapping[str, Sequence[Float[np.ndarray | Array, "n 2"]]],
    labels: Sequence[str],
    path: str | os.PathLike[str],
    half_width: float = 1.6,
) -> Path:
    """Draws the points of each solver (a row) at each budget (a column, with its label)."""
    figure, axes = new_figure(1.3 + 1.25 * len(labels), 0.3 + 1.25 * len(points), len(points), len(labels))
    for row, (name, sets) in enumerate(points.items()):
        for column, (label, values) in enumerate(zip(labels, sets, strict=True)):
            one = axes[row, column]
            one.scatter(*np.asarray(values).T, s=1.0, color=BLUE, linewidths=0, alpha=0.5)
            hide_axes(one)
            one.set(xlim=(-half_width, half_width), ylim=(-half_width, half_width), aspect="equal")
            if row == 0:
                one.set_title(label, fontsize=9, color=MUTED)
        axes[row, 0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8, color=INK)
    return save_figure(figure, path)
