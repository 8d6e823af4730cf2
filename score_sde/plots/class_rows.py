"""Samples of each class, a class a row, for several settings side by side."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Integer

from score_sde.plots.images import image_grid
from score_sde.plots.style import INK, hide_axes, new_figure, save_figure

PADDING = 4  # pixels between two tiles


def class_rows(
    panels: Mapping[str, Float[np.ndarray, "n *shape"]],
    labels: Integer[np.ndarray, " n"],
    names: Sequence[str],
    path: str | os.PathLike[str],
    per_class: int = 8,
    title: str = "",
) -> Path:
    """Draws the first images of each class in a row, with the name of the class at the left.

    Args:
      panels: title of a panel -> its images. Image i has class labels[i] in every panel.
      names: the name of each class.
      path: the file, which ends in .png, .svg or .pdf.
      per_class: the number of images in a row.
      title: the line above the figure.
    Raises: ValueError for a class with fewer images.
    """
    least = int(np.bincount(labels, minlength=len(names)).min())
    if least < per_class:
        raise ValueError(
            f"class_rows needs {per_class} images of each of {len(names)} classes, got a class with {least}."
        )
    chosen = np.concatenate([np.flatnonzero(labels == number)[:per_class] for number in range(len(names))])
    figure, axes = new_figure(0.9 + 0.34 * per_class * len(panels), 0.6 + 0.34 * len(names), 1, len(panels))
    for one, (head, images) in zip(axes[0], panels.items(), strict=True):
        grid = image_grid(images[chosen], columns=per_class, padding=PADDING)
        one.imshow(grid, interpolation="nearest")
        hide_axes(one)
        one.set_title(head, fontsize=9.5, color=INK)
    height = (grid.shape[0] - PADDING) / len(names)
    axes[0, 0].set_yticks(PADDING / 2 + (np.arange(len(names)) + 0.5) * height, names)
    axes[0, 0].tick_params(axis="y", length=0, labelsize=9, labelcolor=INK)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11.5, fontweight="bold", color=INK)
    return save_figure(figure, path)
