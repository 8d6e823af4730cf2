"""The end of a solve with restarts: what a solver does in its last steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sdes, solvers
from score_sde.denoising.gaussian_mixture import GaussianMixture
from score_sde.solvers import grids
from tests import ground_truth

KEY = jax.random.key(0)
VP = sdes.VP()
DENOISE = GaussianMixture(*(jnp.asarray(part, jnp.float32) for part in ground_truth.POINTS)).denoise(VP)
GRID = grids.WithRestarts(grids.Uniform(5, end=0.05), grids.Uniform(3), 0.3, 0.6, repeats=2)
TIMES = GRID.times(VP)
LAST_UP = int(np.flatnonzero(np.diff(TIMES) > 0)[-1]) + 1  # the step after which times only go down
# Each does something else in its last steps.
ENDS = {
    "unipc": solvers.UniPC(correct_last=True),
    "multistep": solvers.DPMSolverMultistep(order=3, lower_order_below=100),
    "adams": solvers.AdamsBashforth(order=3, lower_order_below=100),
    "fast": solvers.DPMSolverFast(1),
    "wrapped": solvers.AncestralSteps(solvers.UniPC(correct_last=True), eta=0.0),
}


@pytest.mark.few(2)
@pytest.mark.parametrize("name", ENDS)
def test_after_the_last_restart_a_solve_ends_as_one_that_starts_there(name):
    """The same states and evaluations; a count of steps that began anew would never reach the end."""
    solver, num_steps = ENDS[name], len(TIMES) - 1
    whole = solvers.sample(KEY, DENOISE, solvers.Restart(solver), GRID, (3, 2), keep=(LAST_UP, num_steps))
    tail = solvers.sample(KEY, DENOISE, solver, grids.Given(TIMES[LAST_UP:]), (3, 2), x_start=whole.trajectory[0])
    np.testing.assert_allclose(whole.x, tail.x, rtol=1e-5, atol=1e-6)
    if name in ("unipc", "wrapped"):
        assert whole.nfe[0] == np.sum(np.diff(TIMES) < 0) + 1
