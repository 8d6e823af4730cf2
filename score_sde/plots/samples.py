"""Pictures of samples that are not images: points in the plane or on a line, and signals. Each class has a colour."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Integer, UInt8

from score_sde.plots.style import BLUE, COLORS, INK, add_legend, as_pixels, label_axes, new_figure

MOST_NAMED = 12  # the most classes in a legend
PANELS = 16  # the most signals in a picture

Labels = Integer[np.ndarray | Array, " n"]
Name = Callable[[int], str]


def point_picture(
    points: Float[np.ndarray | Array, "n d"],
    labels: Labels | None = None,
    name: Name = str,
    title: str = "",
) -> UInt8[np.ndarray, "height width 3"]:
    """Draws points [n, 2] in the plane, [n, 1] as a histogram, and others along their first two principal axes.

    Args:
      labels: the class of each point, which gives its colour.
      name: the name of a class, for the legend.
      title: the line above the figure.
    """
    points = np.asarray(points, np.float64)
    finite = np.isfinite(points).all(axis=1)
    lost = f", {(~finite).sum():,} of them not finite and left out" if not finite.all() else ""
    title = f"{title or 'Samples'}: {len(points):,} points{lost}"
    figure, [[axes]] = new_figure(6.4, 5.0 if points.shape[1] > 1 else 3.8)
    groups = _groups(None if labels is None else np.asarray(labels)[finite], int(finite.sum()), name)
    shown = points[finite]
    if points.shape[1] == 1:
        _histogram(axes, shown[:, 0], groups)
        label_axes(axes, title, "x", "density")
    else:
        flat, names = (shown, ("x₀", "x₁")) if points.shape[1] == 2 else _principal(shown)
        for text, rows, color in groups:
            axes.scatter(*flat[rows].T, s=7, color=color, linewidths=0, alpha=0.65, label=text)
        axes.set_aspect("equal", adjustable="datalim")
        label_axes(axes, title, *names)
    if labels is not None and len(groups) <= MOST_NAMED:
        add_legend(axes, markerscale=2.2, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return as_pixels(figure)


def signal_picture(
    signals: Float[np.ndarray | Array, "n l c"],
    labels: Labels | None = None,
    name: Name = str,
    title: str = "",
) -> UInt8[np.ndarray, "height width 3"]:
    """Draws up to 16 signals side by side on common axes, with a line for each channel. The class stands above each signal.

    It takes the arguments of `point_picture`.
    """
    signals = np.asarray(signals, np.float64)[:PANELS]
    columns = min(4, len(signals))
    rows = -(-len(signals) // columns)
    figure, axes = new_figure(2.6 * columns + 0.6, 1.7 * rows + 0.8, rows, columns, sharex=True, sharey=True)
    for index, one in enumerate(axes.flat):
        if index >= len(signals):
            one.set_visible(False)
            continue
        for channel, values in enumerate(signals[index].T):
            one.plot(values, color=COLORS[channel % len(COLORS)], linewidth=1.2, label=f"channel {channel}")
        if labels is not None:
            one.set_title(name(int(np.asarray(labels)[index])), fontsize=9, color=INK, pad=4)
    figure.supxlabel("position in the signal", fontsize=10, color=INK)
    figure.supylabel("value", fontsize=10, color=INK)
    if signals.shape[-1] > 1:
        add_legend(axes[0, 0])
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11.5, fontweight="bold", color=INK)
    return as_pixels(figure)


def _groups(labels: np.ndarray | None, count: int, name: Name) -> Sequence[tuple[str, np.ndarray, str]]:
    """(name, rows, colour) of each class. Without labels, one group with all rows."""
    if labels is None:
        return [("", np.arange(count), BLUE)]
    return [(name(int(k)), np.flatnonzero(labels == k), COLORS[int(k) % len(COLORS)]) for k in np.unique(labels)]


def _histogram(axes: Any, values: np.ndarray, groups: Sequence[tuple[str, np.ndarray, str]]) -> None:
    """One histogram of all points, with its bars divided among the classes."""
    parts, colors = [values[rows] for _, rows, _ in groups], [color for _, _, color in groups]
    labels = [text for text, _, _ in groups]
    axes.hist(parts, bins=60, density=True, stacked=True, color=colors, label=labels)


def _principal(points: np.ndarray) -> tuple[np.ndarray, tuple[str, str]]:
    """(the points along the two directions of largest variance, the names of these directions)."""
    centred = points - points.mean(axis=0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    share = singular**2 / max(float((singular**2).sum()), 1e-300)
    names = tuple(
        f"principal axis {i + 1} ({share[i]:.0%} of the variance of {points.shape[1]} numbers)" for i in (0, 1)
    )
    return centred @ directions[:2].T, (names[0], names[1])
