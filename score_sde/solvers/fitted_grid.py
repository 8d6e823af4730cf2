"""A grid fitted to a model: its steps make errors of one size, as measured, in the result."""

import os
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Float, Key

from score_sde.dynamics import Denoise
from score_sde.files import read_json, write_json
from score_sde.function_denoiser import needs_denoiser
from score_sde.pytree import pytree, static
from score_sde.sdes.base import SDE
from score_sde.solvers.base import Solver
from score_sde.solvers.grids import Given, Grid, LogSNRUniform
from score_sde.solvers.loop import sample


@pytree
class Fitted(Grid):
    """The times at which a monotone function, the measured `density` of steps, is uniform; then 0 if `to_zero`.

    Given by its `knots` (times, decreasing) and the `cumulative` density there, from 0 to 1; log(time) is linear between
    knots. Any number of steps can be drawn from one fit. `fit_grid` makes one; `path` reads one that `save_grid` wrote.

    Raises: ValueError for knots or cumulative that are not monotone or do not match, or both a path and knots.
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
        """The times, from the first knot to the last (and 0)."""
        spaced = self.num_steps + (0 if self.to_zero else 1)
        if spaced < 2:
            raise ValueError(f"Fitted needs at least {2 if self.to_zero else 1} steps, got num_steps={self.num_steps}.")
        cumulative = np.asarray(self.cumulative)
        at = np.linspace(cumulative[0], cumulative[-1], spaced)
        times = np.exp(np.interp(at, cumulative, np.log(np.asarray(self.knots))))
        times[0], times[-1] = self.knots[0], self.knots[-1]
        return Given(np.append(times, 0.0) if self.to_zero else times).times(sde)


@needs_denoiser
def fit_grid(
    key: Key[Array, ""],
    denoise: Denoise,
    solver: Solver,
    shape: tuple[int, ...],
    *,
    order: float = 2.0,
    intervals: int = 16,
    refinement: int = 4,
    rounds: int = 2,
    start: float | None = None,
    end: float = 1e-3,
    num_steps: int = 10,
    to_zero: bool = True,
) -> Fitted:
    """The grid whose steps, with a deterministic `solver` of `order` p, change the result equally.

    The reference has `intervals` intervals of `refinement` steps. The error e_k of interval k is how much the result moves
    when the interval is made in one step: with the solver's own memory, and with all that the later flow does to the error.
    Where e = c h^(p+1), the density of steps that makes them equal is c^(1/(p+1)). It is measured anew on the grid found,
    `rounds` times.

    Args:
      shape: images to measure with, (number, *shape of one); 16 to 64 do.
      start, end: the grid's times; end > 0.
    Cost: rounds × (intervals + 1) solves of about intervals × refinement steps, by one program.
    Error: is for the errors of single steps; their sum may cancel, so that a grid for few steps need not be the best.
    Source: the equidistribution principle, Ascher, Mattheij & Russell, Sec. 9.1; the idea for samplers in Xue et al.,
    arXiv 2402.17376, and Sabour et al., arXiv 2404.14507, who minimize other bounds.
    """
    if min(intervals, refinement, rounds) < 1 or refinement < 2 or not order > 0:
        raise ValueError(
            f"fit_grid needs intervals, rounds >= 1, refinement >= 2 and order > 0, got {intervals}, {rounds}, "
            f"{refinement}, {order}."
        )
    sde = denoise.sde
    base: Grid = LogSNRUniform(intervals * refinement, start, end)
    for _ in range(rounds):
        times = base.times(sde)
        errors = _errors(key, denoise, solver, shape, times, refinement)
        steps = np.maximum(errors, 1e-6 * errors.max()) ** (1 / (order + 1))
        knots, cumulative = (
            times[::refinement].astype(np.float64),
            np.concatenate([[0.0], np.cumsum(steps / steps.sum())]),
        )
        base = Fitted(intervals * refinement, None, knots, cumulative, to_zero=False)
    return Fitted(num_steps, None, knots, cumulative, to_zero)


def _errors(key, denoise, solver, shape, times, refinement):
    """Of each interval, the root mean square by which the end moves when the interval is one step."""

    def end(skipped):
        kept = np.delete(times, np.arange(skipped + 1, skipped + refinement)) if skipped is not None else times
        return np.asarray(sample(key, denoise, solver, Given(kept), shape).x, np.float64)

    reference = end(None)
    moved = [end(k) - reference for k in range(0, len(times) - 1, refinement)]
    errors = np.sqrt([np.mean(change**2) for change in moved])
    if not (np.all(np.isfinite(errors)) and errors.max() > 0):
        raise ValueError(
            f"fit_grid needs finite results that depend on the grid, got errors {errors}; try another solver."
        )
    return errors


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
