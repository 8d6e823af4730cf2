"""A grid fitted to a model: each of its steps makes an equal measured error in the result."""

import os
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Float

from score_sde.internal.files import read_json, write_json
from score_sde.internal.pytree import pytree, static
from score_sde.sdes.base import SDE
from score_sde.solvers.grids.base import Grid
from score_sde.solvers.grids.standard import Given


@pytree
class Fitted(Grid):
    """Times at which the measured cumulative density of steps is uniform, then 0 if `to_zero`.

    log(time) is linear between the knots. One fit gives grids of any number of steps. `fit_grid`
    makes a fitted grid, and `save_grid` writes it to a file.

    Args:
      num_steps: the number of steps.
      path: a file that `save_grid` wrote, instead of `knots` and `cumulative`.
      knots: decreasing times.
      cumulative: the cumulative density at the knots, from 0 to 1.
      to_zero: whether the grid ends with 0.
    Raises: ValueError for knots or cumulative that are not monotone or do not match, or for both a
      path and knots.
    """

    num_steps: int = 10
    path: str | None = static(default=None)
    knots: Float[np.ndarray, " n"] | Float[Array, " n"] | Sequence[float] = ()
    cumulative: Float[np.ndarray, " n"] | Float[Array, " n"] | Sequence[float] = ()
    to_zero: bool = static(default=True)

    def __post_init__(self):
        knots, cumulative = self.knots, self.cumulative
        if self.path is not None:
            if len(knots):
                raise ValueError(
                    f"Fitted needs a path or knots, not both, got path={self.path!r} and {len(knots)} knots."
                )
            knots, cumulative = _load_grid(self.path)
        knots, cumulative = (np.asarray(values, np.float64) for values in (knots, cumulative))
        fits = knots.ndim == 1 and len(knots) >= 2 and knots.shape == cumulative.shape
        if not (fits and np.all(np.diff(knots) < 0) and knots[-1] > 0 and np.all(np.diff(cumulative) > 0)):
            where = "" if self.path is None else f" in {self.path}, which needs to be fitted again"
            raise ValueError(
                "Fitted needs at least two knots that decrease and end above 0, and a cumulative that increases, got "
                f"knots {knots}, cumulative {cumulative}{where}."
            )
        for name, value in (("path", None), ("knots", knots), ("cumulative", cumulative)):
            object.__setattr__(self, name, value)

    def times(self, sde: SDE) -> Float[np.ndarray, " n"]:
        """The times, from the first knot to the last, then 0 if `to_zero`."""
        spaced = self.num_steps + (0 if self.to_zero else 1)
        if spaced < 2:
            raise ValueError(f"Fitted needs at least {2 if self.to_zero else 1} steps, got num_steps={self.num_steps}.")
        cumulative = np.asarray(self.cumulative)
        at = np.linspace(cumulative[0], cumulative[-1], spaced)
        times = np.exp(np.interp(at, cumulative, np.log(np.asarray(self.knots))))
        times[0], times[-1] = self.knots[0], self.knots[-1]
        return Given(np.append(times, 0.0) if self.to_zero else times).times(sde)


def _load_grid(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """The knots and the cumulative that `save_grid` wrote."""
    remedy = "fit the grid again"
    found = read_json(path, remedy)
    try:
        return np.asarray(found["knots"], np.float64), np.asarray(found["cumulative"], np.float64)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path} needs lists of numbers named knots and cumulative; {remedy}.") from error


def save_grid(grid: Fitted, path: str | pathlib.Path) -> pathlib.Path:
    """Writes a fitted grid as JSON, for {"name": "fitted", "path": …} in a config."""
    path = pathlib.Path(path)
    content = {name: np.asarray(getattr(grid, name)).tolist() for name in ("knots", "cumulative")}
    content |= {"num_steps": grid.num_steps, "to_zero": grid.to_zero}
    write_json(path, content)
    return path
