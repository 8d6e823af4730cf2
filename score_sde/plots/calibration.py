"""Rank histograms of simulation-based calibration."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Int

from score_sde.plots.style import BLUE, GRID, MUTED, new_figure, save_figure

COLUMNS = 4


def rank_histograms(ranks: Mapping[str, Int[np.ndarray, "pairs d"]], draws: int, path: str | os.PathLike[str]) -> Path:
    """Draws a histogram of the ranks 0 … `draws` for each method, over all coordinates.

    A flat histogram is right. The shape Λ means that the draws are too spread, and ∪ means that
    they are too narrow. A slope means that they are biased to one side. The band holds 95 % of the
    bars of right draws, where the coordinates of an example count as one. So the band is wider than
    necessary.

    Raises: ValueError without ranks.
    """
    if not ranks:
        raise ValueError("rank_histograms needs the ranks of at least one method, got none.")
    rows = -(-len(ranks) // COLUMNS)
    figure, axes = new_figure(2.6 * COLUMNS, 1.9 * rows, rows, COLUMNS)
    for one in axes.flat[len(ranks) :]:
        one.set_visible(False)
    for one, (name, values) in zip(axes.flat, ranks.items(), strict=False):
        share = np.bincount(values.ravel(), minlength=draws + 1) / values.size * (draws + 1)
        error = 1.96 * np.sqrt(draws / len(values))  # the error of a binomial with p = 1/(draws + 1), divided by p
        one.axhspan(1 - error, 1 + error, color=GRID)
        one.bar(np.arange(draws + 1), share, color=BLUE, width=0.9)
        one.axhline(1, color=MUTED, linewidth=0.8)
        one.set_title(name, fontsize=9, loc="left")
        one.set_ylim(0, max(3.0, 1.05 * float(share.max())))
        one.set_xticks([0, draws])
    return save_figure(figure, path)
