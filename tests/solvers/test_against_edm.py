"""EDM's edm_sampler and ablation_sampler, step by step with their own noise; exact solutions of the probability flow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sdes, solvers
from score_sde.internal.pytree import pytree
from score_sde.sdes.base import SDE
from tests.solvers import replay

ARRAYS, META = replay.load("edm.npz")
CASES = META["cases"]


@pytree
class SqrtVE(SDE):
    """α = 1, σ = √t: the time of EDM's rendering of VE, which the package does not have."""

    t_max: float = 100.0**2

    def log_alpha(self, t):
        return jnp.zeros_like(jnp.asarray(t))

    def sigma(self, t):
        return jnp.sqrt(t)

    def time_of_log_snr(self, log_snr):
        return jnp.exp(-jnp.asarray(log_snr))


def vp_between(low, high, first=1e-3):
    """The VP with σ/α from `low` at t = `first` to `high` at 1, whose β_min may be a little below 0 as in EDM's code."""
    ends = np.log(np.square([low, high]) + 1)
    slope = 2 * (ends[0] / first - ends[1]) / (first - 1)
    return jax.tree.unflatten(jax.tree.structure(sdes.VP()), (ends[1] - slope / 2, ends[1] + slope / 2))


def setting(case):
    """(sde, grid) of a case."""
    n = case["num_steps"]
    kind = case.get("discretization", "edm"), case.get("schedule", "linear")
    if kind == ("edm", "linear"):
        return sdes.EDM(), solvers.grids.EDMRho(n)
    if kind == ("iddpm", "linear"):
        return sdes.EDM(sigma_max=100.0), solvers.grids.Given([*ARRAYS["iddpm_steps_n5"], 0.0])
    if kind == ("vp", "vp"):
        return sdes.VP(), solvers.grids.Uniform(n, end=1e-3, to_zero=True)
    if kind == ("ve", "ve"):
        return SqrtVE(), solvers.grids.LogSNRUniform(n, end=0.02**2, to_zero=True)
    assert kind == ("edm", "vp")
    vp = vp_between(0.002, 80.0)
    return vp, solvers.grids.EDMRho(n, 1.0, 1e-3)


def solver_of(case):
    if case.get("solver") == "euler":
        return solvers.Euler()
    churn = {name: case[name] for name in ("S_churn", "S_min", "S_max", "S_noise") if name in case}
    return solvers.EDMHeun(**churn, fraction=case.get("alpha", 1.0))


@pytest.mark.parametrize("name", CASES)
def test_every_case(name):
    case = CASES[name]
    with jax.enable_x64(True):
        sde, grid = setting(case)
        times = grid.times(sde)
        x = ARRAYS["z0_m2"] * float(sde.sigma(times[0]))
        draws = ARRAYS.get(f"{name}/noise")
        denoise = replay.mixture(ARRAYS).denoise(sde)
        states, evaluations = replay.solve(solver_of(case), denoise, x, times, draws)
    np.testing.assert_allclose(states[-1], ARRAYS[f"{name}/final"], rtol=1e-9, atol=1e-10)
    assert evaluations == ARRAYS[f"{name}/nfe"]
