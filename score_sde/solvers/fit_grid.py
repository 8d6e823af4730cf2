"""Fits a grid to a model: each step changes the result equally, as measured."""

import numpy as np
from jaxtyping import Array, Key

from score_sde.denoising.dynamics import Denoise
from score_sde.denoising.function_denoiser import needs_denoiser
from score_sde.solvers.base import Solver
from score_sde.solvers.grids import Fitted, Given, Grid, LogSNRUniform
from score_sde.solvers.loop import sample


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
