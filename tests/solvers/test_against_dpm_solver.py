"""DPM-Solver and DPM-Solver++ against their authors' code: single step, multistep, adaptive; VP, float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sdes, solvers
from score_sde.solvers import grids
from score_sde.solvers.ode import dpm_solver_adaptive as adaptive_dpm
from tests.solvers import replay

ARRAYS, META = replay.load("dpm_solver.npz")
VP = sdes.VP()
START = ARRAYS["z0_m2"]
GRIDS = {
    "time_uniform": grids.Uniform,
    "logSNR": grids.LogSNRUniform,
    "time_quadratic": grids.Quadratic,
}
# The authors' code gives the second difference of a multistep method half of its weight: test_order_of_the_authors_3m.
CODE = {"curvature": 0.5}


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def grouped(methods):
    """{what is one compiled program: its cases}."""
    groups = {}
    for name, case in META["cases"].items():
        if case["method"] in methods:
            key = case["algorithm_type"], case["method"], case["order"], case.get("solver_type", "dpmsolver")
            groups.setdefault("-".join(map(str, key)), {})[name] = case
    return groups


MULTISTEP, SINGLESTEP, ADAPTIVE = (
    grouped(methods) for methods in (("multistep",), ("singlestep", "singlestep_fixed"), ("adaptive",))
)


def multistep_solver(case):
    order, kind = case["order"], case["solver_type"]
    if case["algorithm_type"] == "dpmsolver":
        return solvers.DPMSolverMultistep(order, kind, **CODE)
    return {1: solvers.DDIM(), 2: solvers.DPMSolverPP2M(kind), 3: solvers.DPMSolverPP3M(kind, **CODE)}[order]


@pytest.mark.few(5)
@pytest.mark.parametrize("group", MULTISTEP)
def test_multistep(group):
    denoise = replay.mixture(ARRAYS).denoise(VP)
    for name, case in MULTISTEP[group].items():
        times = GRIDS[case["skip_type"]](case["steps"], end=1e-3).times(VP)
        states, evaluations = replay.solve(multistep_solver(case), denoise, START, times)
        np.testing.assert_allclose(states[-1], ARRAYS[f"{name}/final"], rtol=1e-9, atol=1e-11, err_msg=name)
        assert evaluations == ARRAYS[f"{name}/nfe"]


def orders_and_times(case):
    """The order and the ends of each step: "singlestep" spends exactly `steps` evaluations, with lower orders at the end."""
    steps, order, grid = case["steps"], case["order"], GRIDS[case["skip_type"]]
    if case["method"] == "singlestep_fixed":
        return [order] * (steps // order), grid(steps // order, end=1e-3).times(VP)
    left = steps % order
    if order == 3:
        orders = [3] * (steps // 3 - (left == 0)) + {0: [2, 1], 1: [1], 2: [2]}[left]
    else:
        orders = [2] * (steps // 2) + [1] * left
    if case["skip_type"] == "logSNR":
        return orders, grid(len(orders), end=1e-3).times(VP)
    return orders, grid(steps, end=1e-3).times(VP)[np.cumsum([0, *orders])]


def singlestep_solver(case, order, t, s):
    """With r1 and r2 where the inner times are spaced as the outer ones."""
    inner = GRIDS[case["skip_type"]](order, start=float(t), end=float(s)).times(VP)
    half = 0.5 * np.asarray(VP.log_snr(jnp.asarray(inner)))
    r = (half - half[0]) / (half[-1] - half[0])
    kind = case["solver_type"]
    if order == 1:
        return solvers.DDIM()
    if case["algorithm_type"] == "dpmsolver":
        return solvers.DPMSolver(order, r[1], r[2], kind)
    return solvers.DPMSolverPP2S(r[1], kind) if order == 2 else solvers.DPMSolverPP3S(r[1], r[2], kind)


@pytest.mark.parametrize("group", SINGLESTEP)
def test_singlestep(group):
    denoise = replay.mixture(ARRAYS).denoise(VP)
    for name, case in SINGLESTEP[group].items():
        x, evaluations = START, 0
        orders, times = orders_and_times(case)
        for order, (t, s) in zip(orders, itertools.pairwise(times), strict=True):
            solver = singlestep_solver(case, order, t, s)
            states, made = replay.solve(solver, denoise, x, np.stack([t, s]))
            x, evaluations = states[-1], evaluations + made
        np.testing.assert_allclose(x, ARRAYS[f"{name}/final"], rtol=1e-9, atol=1e-11, err_msg=name)
        assert evaluations == ARRAYS[f"{name}/nfe"] == sum(orders)


@pytest.mark.few(2)
@pytest.mark.parametrize("group", [group for group in SINGLESTEP if "-singlestep-3-" in group])
def test_fast(group):
    """DPM-Solver-fast, the paper's name for order 3 on a grid uniform in log-SNR, as one solve."""
    found = 0
    for name, case in SINGLESTEP[group].items():
        if case["skip_type"] == "logSNR":
            predicts = "x0" if case["algorithm_type"] == "dpmsolver++" else "eps"
            solver = solvers.DPMSolverFast(case["steps"] % 3, predicts, case["solver_type"])
            times = grids.LogSNRUniform(case["steps"] // 3 + 1, end=1e-3).times(VP)
            states, evaluations = replay.solve(solver, replay.mixture(ARRAYS).denoise(VP), START, times)
            np.testing.assert_allclose(states[-1], ARRAYS[f"{name}/final"], rtol=1e-9, atol=1e-11, err_msg=name)
            assert evaluations == ARRAYS[f"{name}/nfe"] == case["steps"]
            found += 1
    assert found


@pytest.mark.few(2)
@pytest.mark.parametrize("group", ADAPTIVE)
def test_adaptive(group, monkeypatch):
    """Theirs is the step of the worst image for all of them: so is ours here, and only here."""
    (name, case), *_ = ADAPTIVE[group].items()
    own = adaptive_dpm.image_errors
    monkeypatch.setattr(adaptive_dpm, "image_errors", lambda *args: jnp.broadcast_to(jnp.max(own(*args)), len(START)))
    family = solvers.DPMSolver12 if case["order"] == 2 else solvers.DPMSolver23
    predicts = "x0" if case["algorithm_type"] == "dpmsolver++" else "eps"
    solver = family(case["rtol"], case["atol"], predicts=predicts, max_growth=np.inf)
    args = jax.random.key(0), replay.mixture(ARRAYS).denoise(VP), jnp.asarray(START)
    x, _, nfe = solver.step(*args, jnp.asarray(1.0), jnp.asarray(1e-3), ())
    np.testing.assert_allclose(x, ARRAYS[f"{name}/final"], rtol=0, atol=1e-7)  # theirs keeps h in float32
    np.testing.assert_array_equal(np.asarray(nfe), ARRAYS[f"{name}/nfe"])
