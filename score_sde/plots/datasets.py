"""A data set at a glance: its values, the distances of its examples, its classes, and how far x at t_max is from the prior."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.plots.style import BLUE, GREEN, MUTED, ORANGE, label_axes, new_figure, save_figure


def dataset_overview(
    values: tuple[Any, Any],
    distances: Any,
    mismatch: Mapping[str, float],
    classes: Mapping[int, int],
    path: str | os.PathLike[str],
) -> Path:
    """Draws four panels.

    Args:
      values: (edges, counts) of the histogram of all numbers.
      distances: between pairs of examples.
      mismatch: SDE -> nats; 0 is drawn at the left edge.
      classes: class -> number of examples; empty without labels.
      path: ends in .png, .svg or .pdf.
    """
    figure, axes = new_figure(10.0, 6.4, 2, 2)
    edges, counts = (np.asarray(part) for part in values)
    axes[0, 0].bar(edges[:-1], counts / counts.sum(), width=np.diff(edges), align="edge", color=BLUE)
    label_axes(axes[0, 0], "Values", "x", "share")
    distances = np.asarray(distances)
    axes[0, 1].hist(distances, bins=60, color=GREEN)
    axes[0, 1].axvline(distances.max(), color=MUTED, linestyle=":", linewidth=1.2)
    label_axes(axes[0, 1], f"Distances of pairs, largest {distances.max():.3g}", "distance", "pairs")
    nats = np.maximum(list(mismatch.values()), 1e-9)
    axes[1, 0].barh(list(mismatch), nats, color=ORANGE)
    axes[1, 0].set_xscale("log")
    axes[1, 0].invert_yaxis()
    label_axes(axes[1, 0], "Prior mismatch at t_max", "KL, nats", "")
    axes[1, 1].bar(list(classes), list(classes.values()), color=BLUE)
    label_axes(axes[1, 1], "Classes" if classes else "No labels", "class", "examples")
    axes[1, 1].set_visible(bool(classes))
    return save_figure(figure, path)
