"""An overview of a data set: its values, distances and classes, and how far x at t_max is from the prior."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.plots.style import BLUE, GREEN, INK, MUTED, ORANGE, label_axes, new_figure, save_figure

MOST_NAMES = 20  # the most class names along an axis


def dataset_overview(
    values: tuple[Any, Any],
    distances: Any,
    mismatch: Mapping[str, float],
    classes: Mapping[int, int],
    path: str | os.PathLike[str],
    class_name: Callable[[int], str] = str,
) -> Path:
    """Draws four panels.

    Args:
      values: (edges, counts) of the histogram of all numbers.
      distances: the distances between pairs of examples.
      mismatch: SDE -> nats. A mismatch of 0 has no bar, only its number.
      classes: class -> number of examples. Empty without labels.
      path: the file, which ends in .png, .svg or .pdf.
      class_name: the name of a class.
    """
    figure, axes = new_figure(10.0, 6.4, 2, 2)
    edges, counts = (np.asarray(part) for part in values)
    axes[0, 0].bar(edges[:-1], counts / counts.sum(), width=np.diff(edges), align="edge", color=BLUE)
    label_axes(axes[0, 0], "Values", "x, in the units of the model", "share")
    distances = np.asarray(distances)
    axes[0, 1].hist(distances, bins=60, color=GREEN)
    axes[0, 1].axvline(distances.max(), color=MUTED, linestyle=":", linewidth=1.2)
    label_axes(
        axes[0, 1], f"Distances of pairs, largest {distances.max():.3g}", "distance, in the units of the model", "pairs"
    )
    _mismatches(axes[1, 0], mismatch)
    _classes(axes[1, 1], {class_name(number): count for number, count in classes.items()})
    return save_figure(figure, path)


def _mismatches(axes: Any, mismatch: Mapping[str, float]) -> None:
    """A bar for each SDE on a logarithmic axis, with its number beside it."""
    names, nats = list(mismatch), np.asarray(list(mismatch.values()), np.float64)
    seen = nats[nats > 0]
    axes.set_xscale("log")
    if not len(seen):
        axes.set_xticks([])
        axes.minorticks_off()
    least, most = (seen.min(), seen.max()) if len(seen) else (0.1, 1.0)
    left = least / 3  # the start of the bars, because a logarithmic axis has no 0
    axes.barh(names, np.where(nats > 0, nats - left, 0.0), left=left, color=ORANGE)
    for place, value in enumerate(nats):
        axes.text(max(float(value), left), place, f" {value:.2g}", va="center", fontsize=8.5, color=INK)
    axes.set_xlim(left, left * (most / left) ** 1.35)
    axes.invert_yaxis()
    label_axes(axes, "Prior mismatch at t_max", "KL from the prior (nats)", "SDE")


def _classes(axes: Any, counts: Mapping[str, int]) -> None:
    """A bar for each class. Names that would overlap are turned, and with many classes only some are written."""
    places = np.arange(len(counts))
    axes.bar(places, list(counts.values()), color=BLUE)
    step = -(-len(counts) // MOST_NAMES) or 1
    long = sum(len(name) + 1 for name in counts) > 50
    axes.set_xticks(places[::step], list(counts)[::step], rotation=40 if long else 0, ha="right" if long else "center")
    label_axes(axes, "Classes" if counts else "No labels", "class", "examples")
    axes.set_visible(bool(counts))
