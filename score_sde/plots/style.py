"""The common look of all figures: colours, fonts, light grids. Only this file creates matplotlib objects.

Figures are made of matplotlib's objects on the Agg canvas. There is no pyplot and no global state,
so threads are safe. matplotlib takes a second to import. It is therefore imported where a figure is
made, and axes are annotated as Any.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

INK, MUTED, GRID = "#1f2933", "#616e7c", "#e4e7eb"
BLUE, ORANGE, GREEN, PURPLE, RED = "#2f6fb0", "#d9822b", "#3a8f6b", "#7b5ea7", "#c23b3b"
# The colours of classes and of solvers: as many as the eye can distinguish.
COLORS = ("#2f6fb0", "#d9822b", "#3a8f6b", "#7b5ea7", "#c23b3b", "#4b9fb5", "#a0643c", "#616e7c", "#c77da6", "#8a9a2b")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINE_COLORS = (BLUE, ORANGE, GREEN, PURPLE, "#a0643c", "#4b9fb5")
DENSITY_COLORS = ("#ffffff", "#dcebf7", "#9ecae1", "#4a98c9", "#1f5fa8", "#0b2f63")
DPI = 150


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1, **layout: Any) -> tuple[Any, Any]:
    """(figure, axes [rows, columns]) of the given size in inches, with a tight layout."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **layout)
    for one in axes.flat:
        style_axes(one)
    return figure, axes


def style_axes(axes: Any) -> None:
    """Leaves two thin spines, and a light grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#b8c0ca")
    axes.grid(True, which="major", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="major", colors=MUTED, labelsize=9, length=3, width=0.8)
    axes.tick_params(which="minor", colors=MUTED, length=0)


def label_axes(axes: Any, title: str | None, x: str, y: str) -> None:
    """Sets the title at the left, and the axis labels."""
    if title:
        axes.set_title(title, loc="left", fontsize=11.5, fontweight="bold", color=INK, pad=10)
    axes.set_xlabel(x, fontsize=10, color=INK)
    axes.set_ylabel(y, fontsize=10, color=INK)


def add_legend(axes: Any, **kwargs: Any) -> None:
    """Adds a legend without a frame, if anything is labelled."""
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False, fontsize=9, labelcolor=INK, **kwargs)


def hide_axes(axes: Any) -> None:
    """Removes spines, ticks and grid, for an image."""
    axes.grid(False)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def density_colormap() -> Any:
    """The map from white (no density) to dark blue."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("density", DENSITY_COLORS)


def as_pixels(figure: Any) -> np.ndarray:
    """The figure as an array [h, w, 3] of 0…255, for example for TensorBoard."""
    _take_texts_as_they_are(figure)
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def save_figure(figure: Any, path: str | os.PathLike[str]) -> Path:
    """Writes the figure. The ending of the name chooses the format. Makes missing folders."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _take_texts_as_they_are(figure)
    figure.savefig(path, dpi=DPI, facecolor="white", bbox_inches="tight", pad_inches=0.1)
    return path


def _take_texts_as_they_are(figure: Any) -> None:
    """Draws a $ in the name of a class or a run as a $. The ticks that matplotlib labels remain formulas."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        if text.get_text() and r"\mathdefault" not in text.get_text():
            text.set_parse_math(False)
