"""Comparisons of solvers: error against the number of network evaluations, and samples at each budget."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from score_sde.plots.curves import scale_axis
from score_sde.plots.images import render_tiles
from score_sde.plots.strips import show_tile
from score_sde.plots.style import BLUE, COLORS, INK, MARKERS, MUTED, hide_axes, label_axes, new_figure, save_figure


def error_by_evaluations(
    panels: Mapping[str, Mapping[str, tuple[Any, Any]]],
    path: str | os.PathLike[str],
    units: Sequence[str],
    title: str = "",
    floors: Mapping[str, float] | None = None,
) -> Path:
    """Draws panels of errors against evaluations, on logarithmic axes.

    A solver has the same colour and marker in all panels.

    Args:
      panels: title of a panel -> {solver: (evaluations, errors)}.
      path: the file, which ends in .png, .svg or .pdf.
      units: the label of the vertical axis of each panel.
      floors: title of a panel -> the error of a perfect solver, drawn as a dotted line.
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


def solver_strips(
    panels: Mapping[str, Sequence[Shaped[np.ndarray, "n *shape"]]],
    heads: Sequence[str],
    captions: Mapping[str, Sequence[str]],
    path: str | os.PathLike[str],
    title: str = "",
    half_width: float = 1.6,
) -> Path:
    """Draws the samples of each solver (a row) at each budget (a column).

    A panel shows all points [n, 2], or the first image or signal.

    Args:
      heads: the text above each column.
      captions: solver -> the text below each of its panels, such as the steps and evaluations.
      path: the file, which ends in .png, .svg or .pdf.
      title: the line above the figure.
      half_width: points are shown within ± this on both axes.
    """
    figure, axes = new_figure(1.6 + 1.4 * len(heads), 0.5 + 1.6 * len(panels), len(panels), len(heads))
    for row, (name, sets) in enumerate(panels.items()):
        for column, (head, values, caption) in enumerate(zip(heads, sets, captions[name], strict=True)):
            one = axes[row, column]
            hide_axes(one)
            if values.ndim == 2:
                one.scatter(*np.asarray(values).T, s=1.0, color=BLUE, linewidths=0, alpha=0.5)
                one.set(xlim=(-half_width, half_width), ylim=(-half_width, half_width), aspect="equal")
            else:
                show_tile(one, render_tiles(np.asarray(values[:1]))[0])
            one.set_xlabel(caption, fontsize=7.5, color=MUTED, labelpad=3)
            if row == 0:
                one.set_title(head, fontsize=9, color=INK)
        axes[row, 0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8, color=INK)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11.5, fontweight="bold", color=INK)
    return save_figure(figure, path)
