"""Fits a grid to a model, so that each measured step changes the result equally."""

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
    """The grid whose steps change the result equally, for a deterministic `solver` of order p = `order`.

    The fit compares with a reference solve of `intervals` intervals, each of `refinement` steps.
    The error e_k of interval k is how far the result moves when that interval is made in one step.
    The history of the solver and the effect of the later flow are thus part of e_k. If e = c
    h^(p+1), the steps are equal in error when their density is c^(1/(p+1)). The density is measured
    `rounds` times, each time on the grid of the round before.

    Args:
      shape: (number of images, *shape of one image) to measure with; 16 to 64 images are enough.
      start: the first time of the grid. None is the SDE's t_max.
      end: the last time of the grid, above 0.
    Cost: rounds × (intervals + 1) solves of about intervals × refinement steps, with one program.
    Error: the fit equalizes the errors of single steps. Their sum may cancel, so that a grid for
      few steps need not be the best one.
    Source: the equidistribution principle, Ascher, Mattheij & Russell, Sec. 9.1. The idea for
      samplers: Xue et al., arXiv 2402.17376, and Sabour et al., arXiv 2404.14507, who minimize
      other bounds.
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
        # The floor keeps the cumulative density strictly increasing where an error is 0.
        steps = np.maximum(errors, 1e-6 * errors.max()) ** (1 / (order + 1))
        knots, cumulative = (
            times[::refinement].astype(np.float64),
            np.concatenate([[0.0], np.cumsum(steps / steps.sum())]),
        )
        base = Fitted(intervals * refinement, None, knots, cumulative, to_zero=False)
    return Fitted(num_steps, None, knots, cumulative, to_zero)


def _errors(key, denoise, solver, shape, times, refinement):
    """For each interval, the root mean square change of the result when the interval is one step."""

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
