"""Samples and densities in the plane, side by side on one colour scale."""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from score_sde.plots.style import BLUE, INK, MUTED, ORANGE, density_colormap, label_axes, new_figure, save_figure

Number = float | int
Extent = tuple[Number, Number, Number, Number]  # x_min, x_max, y_min, y_max


def grid_points(extent: Extent, resolution: int) -> Float[np.ndarray, "n 2"]:
    """The centres of resolution² equal cells, row by row from y_min, where density_plot expects a density."""
    x_min, x_max, y_min, y_max = extent
    centres = (np.arange(resolution) + 0.5) / resolution
    x, y = np.meshgrid(x_min + centres * (x_max - x_min), y_min + centres * (y_max - y_min))
    return np.stack([x.ravel(), y.ravel()], axis=-1).astype(np.float32)


def density_plot(
    samples: Float[np.ndarray | Array, "n 2"],
    path: str | os.PathLike[str],
    extent: Extent | None = None,
    true_density: Float[np.ndarray | Array, "*cells"] | None = None,
    learned_density: Float[np.ndarray | Array, "*grid"] | None = None,
    trajectories: Float[np.ndarray | Array, "steps m 2"] | None = None,
    title: str | None = None,
) -> Path:
    """Draws, side by side: the true density, a histogram of the samples, the learned density, paths from noise to data.

    All densities (per unit area) share one colour scale, so equal colours are equal numbers.

    Args:
      samples: points. The fraction of points outside of the extent stands above their panel.
      path: the file, which ends in .png, .svg or .pdf.
      extent: (x_min, x_max, y_min, y_max). None is a square about the samples. With a density, the
        extent must be given.
      true_density: p at grid_points(extent, r), as r² values in any shape.
      learned_density: the p of the model, in the same form. Its r may differ.
      trajectories: positions in the order of the solve, noise first.
      title: the line above the figure.
    """
    samples = np.asarray(samples, np.float64)
    if extent is None:
        if true_density is not None or learned_density is not None:
            raise ValueError("density_plot needs the extent on which its densities were evaluated, got extent=None.")
        extent = square_about(samples)
    histogram, outside = histogram_density(samples, extent)
    panels = {f"{len(samples):,} samples" + (f" ({outside:.1%} outside)" if outside >= 0.0005 else ""): histogram}
    if true_density is not None:
        panels = {"true density": as_square(true_density)} | panels
    if learned_density is not None:
        panels["learned density"] = as_square(learned_density)
    return draw_panels(panels, trajectories, extent, title, path)


def draw_panels(panels: dict[str, np.ndarray], trajectories: Any, extent: Extent, title: str | None, path: Any) -> Path:
    """Draws one panel for each density with one colour bar, then the paths."""
    count = len(panels) + (trajectories is not None)
    figure, axes = new_figure(3.0 * count + 0.8, 3.3 + (0.3 if title else 0), 1, count, sharex=True, sharey=True)
    top = max(float(np.nanquantile(density, 0.998)) for density in panels.values())
    options = {"extent": extent, "origin": "lower", "interpolation": "nearest", "cmap": density_colormap()}
    for one, (name, density) in zip(axes[0, : len(panels)], panels.items(), strict=True):
        drawn = one.imshow(density, vmin=0, vmax=top, **options)
        finish_panel(one, name, extent)
    if trajectories is not None:
        draw_paths(axes[0, -1], np.asarray(trajectories))
        finish_panel(axes[0, -1], "from noise to data", extent)
    bar = figure.colorbar(drawn, ax=axes[0, :].tolist(), shrink=0.8, pad=0.02, aspect=24)
    bar.set_label("probability density (per unit area)", fontsize=9, color=INK)
    bar.ax.tick_params(colors=MUTED, labelsize=8)
    bar.outline.set_visible(False)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11.5, fontweight="bold", color=INK)
    return save_figure(figure, path)


def finish_panel(axes: Any, name: str, extent: Extent) -> None:
    """Sets the title of the panel, and the common, undistorted extent."""
    label_axes(axes, None, "x₀", "x₁")
    axes.set_title(name, fontsize=10, color=INK, pad=6)
    axes.grid(False)
    axes.set(xlim=extent[:2], ylim=extent[2:], aspect="equal")


def draw_paths(axes: Any, trajectories: np.ndarray) -> None:
    """Draws each path as a thin line from a hollow orange start to a blue end."""
    from matplotlib.collections import LineCollection

    paths = np.moveaxis(trajectories, 1, 0)
    axes.add_collection(LineCollection(list(paths), colors=MUTED, linewidths=0.5, alpha=0.45, zorder=1))
    axes.scatter(*paths[:, 0].T, s=9, facecolors="none", edgecolors=ORANGE, linewidths=0.8, label="noise", zorder=2)
    axes.scatter(*paths[:, -1].T, s=9, color=BLUE, linewidths=0, label="sample", zorder=3)
    axes.legend(loc="upper right", fontsize=8, frameon=True, framealpha=0.85, edgecolor="none", borderpad=0.3)


def histogram_density(samples: np.ndarray, extent: Extent) -> tuple[np.ndarray, float]:
    """(count / (n · cell area) on a grid of about √n/3 cells per side, the fraction of samples outside).

    A non-finite sample lies in no cell, so it counts as outside.
    """
    resolution = int(np.clip(math.sqrt(len(samples)) / 3, 24, 128))
    x_min, x_max, y_min, y_max = extent
    x, y = samples[np.isfinite(samples).all(axis=1)].T
    counts, _, _ = np.histogram2d(y, x, bins=resolution, range=((y_min, y_max), (x_min, x_max)))
    cell = (x_max - x_min) * (y_max - y_min) / resolution**2
    return counts / (len(samples) * cell), 1 - float(counts.sum()) / len(samples)


def square_about(samples: np.ndarray) -> Extent:
    """The smallest square about the middle 99.8 % of the samples, widened by 8 %."""
    low, high = np.quantile(samples[np.isfinite(samples).all(axis=1)], [0.001, 0.999], axis=0)
    centre, half = (low + high) / 2, 0.54 * max(float((high - low).max()), 1e-6)
    return (
        float(centre[0] - half),
        float(centre[0] + half),
        float(centre[1] - half),
        float(centre[1] + half),
    )


def as_square(density: Any) -> np.ndarray:
    """r² values as [r, r], with y along the rows."""
    density = np.asarray(density, np.float64)
    side = math.isqrt(density.size)
    if side * side != density.size or not side:
        raise ValueError(
            f"density_plot needs a square number of density values, got {density.size}; "
            "evaluate the density at grid_points(extent, resolution)."
        )
    return density.reshape(side, side)
