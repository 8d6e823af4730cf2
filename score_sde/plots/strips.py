"""The denoising strip: the estimates of a denoiser for one image at each noise level."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from score_sde.plots.images import render_tiles
from score_sde.plots.style import GRID, INK, MUTED, hide_axes, new_figure, save_figure


def denoising_strip(
    noised: Float[np.ndarray | Array, "k *shape"],
    one_step: Float[np.ndarray | Array, "_ *shape"],
    full: Float[np.ndarray | Array, "_ *shape"],
    labels: Sequence[str],
    path: str | os.PathLike[str],
    clean: Float[np.ndarray | Array, "*shape"] | None = None,
    title: str | None = None,
) -> Path:
    """Draws, for each noise level: x_t, the one-step estimate of x0, and the end of a full solve from x_t.

    Args:
      noised: x_t of one image at k noise levels. Where its values exceed [−1, 1], a level is
        divided by the 98th percentile of |x|. Then a variance-exploding x_t shows its structure
        instead of its clipping.
      one_step: the denoiser's x0 at (x_t, t).
      full: the samples that a solver reaches from x_t.
      labels: the k noise levels in words, such as "σ = 0.5".
      path: the file, which ends in .png, .svg or .pdf.
      clean: the image itself, shown at the left.
      title: a line above the figure.
    """
    check_lengths(len(noised), one_step, full, labels)
    rows = {"noised": within_range(np.asarray(noised)), "one-step\ndenoised": one_step, "fully\ndenoised": full}
    tiles = [render_tiles(np.asarray(images)) for images in rows.values()]
    first = 0 if clean is None else 1
    columns, ratio = len(noised) + first, tiles[0].shape[1] / tiles[0].shape[2]
    figure, axes = new_figure(0.85 + 1.05 * columns, 0.22 + 3 * 1.05 * ratio + (0.3 if title else 0), 3, columns)
    for one in axes.flat:
        hide_axes(one)
    for row, (name, row_tiles) in enumerate(zip(rows, tiles, strict=True)):
        axes[row, first].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9, color=INK, labelpad=8)
        for column, tile in enumerate(row_tiles):
            show_tile(axes[row, first + column], tile)
    for column, label in enumerate(labels):
        axes[0, first + column].set_title(label, fontsize=9, color=MUTED, pad=5)
    if clean is not None:
        show_tile(axes[0, 0], render_tiles(np.asarray(clean)[None])[0])
        axes[0, 0].set_title("data", fontsize=9, color=MUTED, pad=5)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11.5, fontweight="bold", color=INK)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
    return save_figure(figure, path)


def check_lengths(count: int, one_step: Any, full: Any, labels: Sequence[str]) -> None:
    """Raises ValueError unless all four have the same number k > 0 of noise levels."""
    lengths = {"noised": count, "one_step": len(one_step), "full": len(full), "labels": len(labels)}
    if count == 0 or len(set(lengths.values())) > 1:
        raise ValueError(
            f"denoising_strip needs the same number of noise levels, at least one, in each, got {lengths}."
        )


def within_range(noised: np.ndarray) -> np.ndarray:
    """Each level divided by max(1, the 98th percentile of |x|)."""
    scale = np.nanquantile(np.abs(noised), 0.98, axis=tuple(range(1, noised.ndim)), keepdims=True)
    return noised / np.maximum(scale, 1)


def show_tile(axes: Any, tile: np.ndarray) -> None:
    """Draws pixels as squares inside a hairline frame."""
    axes.imshow(tile, interpolation="nearest")
    axes.spines[:].set(visible=True, color=GRID, linewidth=0.8)
