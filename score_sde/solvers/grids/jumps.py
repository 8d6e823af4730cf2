"""A grid that goes back up many times: RePaint's resampling and DDNM's time travel."""

import numpy as np
from jaxtyping import Float

from score_sde.internal.pytree import pytree, static
from score_sde.sdes.base import SDE
from score_sde.solvers.grids.base import Grid


@pytree
class Jumps(Grid):
    """The times of `grid`, with `repeats` − 1 jumps at every `length`-th time above 0.

    A jump goes back up `length` steps and comes down again. Times are counted from the last time
    above 0. No jump goes beyond the first time. The way up is one step, with the noise of `length`
    steps. The solver must be a `Restart`.

    Args:
      grid: the grid to which jumps are added.
      length: the number of steps of a jump.
      repeats: how often each part of the grid is made.
    Raises: ValueError unless length and repeats are at least 1.
    Source: Lugmayr et al., arXiv 2201.09865, App. B (j = length = 10, r = repeats = 10); the time
      travel of DDNM, arXiv 2212.00490, Sec. 3.4 (l = length).
    """

    grid: Grid
    length: int = static(default=10)
    repeats: int = static(default=10)

    def __post_init__(self):
        if min(self.length, self.repeats) < 1:
            raise ValueError(f"Jumps needs length >= 1 and repeats >= 1, got {self.length=}, {self.repeats=}.")

    def times(self, sde: SDE) -> Float[np.ndarray, " n"]:
        """The times. They increase at the jumps."""
        times = self.grid.times(sde)
        above, jumped = times[times > 0], []
        for i, time in enumerate(above):
            jumped.append(time)
            above_last = len(above) - 1 - i
            if above_last % self.length == 0 and i >= self.length:
                jumped.extend([*above[i - self.length : i + 1]] * (self.repeats - 1))
        return np.asarray([*jumped, *times[times <= 0]], times.dtype)
