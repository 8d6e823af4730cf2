"""Curves: the loss over the training, and the loss at each noise level."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.plots.style import LINE_COLORS, RED, add_legend, label_axes, new_figure, save_figure

MOST_POINTS = 2000  # a longer curve is averaged down to this many points, because more cannot be seen
WIDE = 8.0  # an axis is logarithmic if its values are positive and their ratio exceeds this factor


def loss_curve(
    metrics: Mapping[str, tuple[Any, Any]],
    path: str | os.PathLike[str],
    names: Sequence[str] | None = None,
    title: str = "Training loss",
    unit: str = "loss",
) -> Path:
    """Draws metrics against the step: a thin line as logged, and a thick line smoothed over about 1/20 of its length.

    A metric of at most 50 points is drawn with markers and not smoothed. A step with a non-finite
    value is marked by a red vertical line, and the legend counts such steps.

    Args:
      metrics: name -> (steps, values), as read_metrics returns them.
      path: the file, which ends in .png, .svg or .pdf.
      names: the metrics to draw. None means those named "loss" after the last slash.
      title: the line above the figure.
      unit: the label of the vertical axis, such as "loss (per dimension)".
    """
    names = [name for name in metrics if name.split("/")[-1] == "loss"] if names is None else list(names)
    missing = [name for name in names if name not in metrics]
    if missing or not names:
        raise ValueError(
            f"loss_curve needs names of logged metrics, got {missing or 'none that is called loss'}; "
            f"choose from {', '.join(sorted(metrics)) or 'nothing: the log is empty'}."
        )
    figure, [[axes]] = new_figure(7.2, 3.8)
    visible = []
    for i, name in enumerate(names):
        steps, values = metrics[name]
        color = LINE_COLORS[i % len(LINE_COLORS)]
        visible.append(draw_series(axes, name, np.asarray(steps), np.asarray(values), color))
    scale_axis(axes.yaxis, np.concatenate(visible))
    axes.xaxis.set_major_formatter(step_formatter())
    axes.margins(x=0.01)
    label_axes(axes, title, "training step", unit)
    add_legend(axes)
    return save_figure(figure, path)


def draw_series(axes: Any, name: str, steps: np.ndarray, values: np.ndarray, color: str) -> np.ndarray:
    """Draws one metric. Returns the values for which the axis should be chosen."""
    finite = np.isfinite(values)
    for i, step in enumerate(steps[~finite]):
        label = f"{name}: {(~finite).sum()} non-finite" if i == 0 else None
        axes.axvline(step, color=RED, linewidth=1, alpha=0.7, label=label)
    steps, values = average_down(steps[finite], values[finite])
    if len(values) <= 50:
        axes.plot(steps, values, color=color, linewidth=1.8, marker="o", markersize=4, label=name)
        return values
    axes.plot(steps, values, color=color, linewidth=0.6, alpha=0.3)
    smooth = smoothed(values)
    axes.plot(steps, smooth, color=color, linewidth=2, label=name)
    return smooth


def average_down(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The averages of neighbours, so that at most MOST_POINTS remain."""
    group = -(-len(values) // MOST_POINTS) or 1
    starts = np.arange(0, len(values), group)
    if group == 1:
        return steps, values
    counts = np.diff(np.append(starts, len(values)))
    return np.add.reduceat(steps, starts) / counts, np.add.reduceat(values, starts) / counts


def smoothed(values: np.ndarray) -> np.ndarray:
    """The average over i − r…i + r, taken twice.

    r is n/40, but at most i/3, so that the steep start is not flattened.
    """
    count = len(values)
    index = np.arange(count)
    reach = np.minimum(count // 40 + 1, index // 3)
    low, high = index - reach, np.minimum(index + reach + 1, count)
    for _ in range(2):
        total = np.concatenate([[0.0], np.cumsum(values)])
        values = (total[high] - total[low]) / (high - low)
    return values


def loss_by_noise_level(
    curves: Mapping[str, tuple[Any, Any, Any]],
    path: str | os.PathLike[str],
    level_name: str = "noise level σ",
    title: str = "Loss by noise level",
    unit: str = "loss (per dimension)",
) -> Path:
    """Draws mean losses against the noise level, with bars of one standard error.

    Args:
      curves: name -> (levels, means, standard errors), for example one entry for training and one
        for held-out data.
      path: the file, which ends in .png, .svg or .pdf.
      level_name: the label of the horizontal axis, with its unit if it has one.
      title: the line above the figure.
      unit: the label of the vertical axis.
    """
    if not curves:
        raise ValueError(
            "loss_by_noise_level needs at least one curve, got none; pass {name: (levels, means, errors)}."
        )
    figure, [[axes]] = new_figure(7.2, 3.8)
    style: dict[str, Any] = {"linewidth": 1.6, "marker": "o", "markersize": 4.5, "capsize": 3, "elinewidth": 1.2}
    for i, (name, (levels, means, errors)) in enumerate(curves.items()):
        style["color"] = LINE_COLORS[i % len(LINE_COLORS)]
        axes.errorbar(np.asarray(levels), np.asarray(means), yerr=np.asarray(errors), label=name, **style)
    scale_axis(axes.xaxis, np.concatenate([np.asarray(curve[0]) for curve in curves.values()]))
    scale_axis(axes.yaxis, np.concatenate([np.asarray(curve[1]) for curve in curves.values()]))
    label_axes(axes, title, level_name, f"{unit}, ± 1 standard error")
    add_legend(axes)
    return save_figure(figure, path)


def scale_axis(axis: Any, values: np.ndarray) -> None:
    """Makes the axis logarithmic if the finite values are positive and widely spread. Ticks stay plain numbers."""
    values = values[np.isfinite(values)]
    if values.size and values.min() > 0 and values.max() >= WIDE * values.min():
        plain_ticks(axis, values)


def plain_ticks(axis: Any, values: np.ndarray) -> None:
    """Makes the axis logarithmic, with ticks at 1, 2, 5, 10 … as plain numbers.

    If the axis has many decades, there is one tick in each.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    decades = np.log10(values.max() / values.min())
    axis.set_major_locator(LogLocator(subs=(1.0,) if decades > 2.5 else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def step_formatter() -> Any:
    """Writes 2500 as 2.5k and 1500000 as 1.5M."""
    from matplotlib.ticker import FuncFormatter

    return FuncFormatter(
        lambda x, _: f"{x / 1e6:g}M" if abs(x) >= 1e6 else f"{x / 1e3:g}k" if abs(x) >= 1e3 else f"{x:g}"
    )
