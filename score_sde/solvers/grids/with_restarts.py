"""A grid that goes up again: the times of the restart sampler."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from score_sde.internal.pytree import pytree
from score_sde.sdes.base import SDE
from score_sde.solvers.grids.base import Grid, Spaced


@pytree
class WithRestarts(Grid):
    """The times of `grid`, with `repeats` excursions up to `high` and down again.

    The excursions start at the first time of `grid` that is `low` or below, and end there. The way
    down has `inner.num_steps` steps with the spacing of `inner`. The start and end of `inner` are
    ignored. `inner` can be any grid of the catalogue with a spacing, but not `Given`. A table with
    several intervals is WithRestarts(WithRestarts(…)). The solver must be a `Restart`.

    Args:
      grid: the grid to which restarts are added.
      inner: the spacing and the number of steps on the way down.
      low: the time at or below which a restart begins.
      high: the time to which a restart goes up.
      repeats: the number of restarts.
    Raises: ValueError unless 0 < low < high <= t_max, repeats >= 0 and `grid` has a time in (0,
      low].
    Source: Xu et al., arXiv 2306.14878, Algorithm 1: low, high, repeats, inner.num_steps = t_min,
      t_max, K, N_Restart.
    """

    grid: Grid
    inner: Spaced
    low: float = 0.06
    high: float = 0.3
    repeats: int = 1

    def times(self, sde: SDE) -> Float[np.ndarray, " n"]:
        """The times. They increase at the restarts."""
        times = self.grid.times(sde)
        below = np.flatnonzero((times <= self.low) & (times > 0))
        if not (0 < self.low < self.high <= sde.t_max and self.repeats >= 0 and below.size):
            raise ValueError(
                f"WithRestarts needs 0 < low < high <= t_max={sde.t_max}, repeats >= 0 and a grid with a time in "
                f"(0, low], got low={self.low}, high={self.high}, repeats={self.repeats}, times {times}."
            )
        place = below[0]
        inner: Any = self.inner
        down = dataclasses.replace(inner, start=self.high, end=float(times[place]), to_zero=False).times(sde)
        down[-1] = times[place]
        return np.concatenate([times[: place + 1], *[down] * self.repeats, times[place + 1 :]])
