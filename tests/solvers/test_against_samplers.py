"""Deterministic samplers of k-diffusion (float64) and schedulers of diffusers (float32), and which of them are wrong."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sdes, solvers
from tests.solvers import replay

CROWSON, CROWSON_META = replay.load("k_diffusion_ode.npz")
DIFFUSERS, DIFFUSERS_META = replay.load("diffusers_ode.npz")
DDPM = sdes.DiscreteVP.ddpm()
VP = sdes.VP(beta_max=25.0)  # any VP will do where only σ/α is given


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def crowson_solver(case):
    sampler = case["sampler"]
    if sampler == "dpmpp_2m_sde":
        return solvers.DPMSolverPP2M({"heun": "taylor", "midpoint": "dpmsolver"}[case["solver_type"]], 0)
    if sampler == "dpmpp_3m_sde":
        return solvers.DPMSolverPP3M("taylor", 0, curvature=0.5)
    if sampler == "dpmpp_sde":
        return solvers.DPMSolverPP2S(case["r"])
    return {
        "lms": solvers.LMS(),
        "dpm_2": solvers.DPM2(),
        "heun": solvers.RungeKutta("heun"),
        "dpmpp_2m": solvers.DPMSolverPP2M(lower_order_below=0),
        "dpmpp_2s_ancestral": solvers.DPMSolverPP2S(),
    }[sampler]


@pytest.mark.parametrize("name", CROWSON_META["cases"])
def test_k_diffusion(name):
    case, sde = CROWSON_META["cases"][name], sdes.EDM()
    times = solvers.grids.EDMRho(case["n_sigmas"]).times(sde)
    denoise, start = replay.mixture(CROWSON).denoise(sde), 80 * CROWSON["z0_m2"]
    states, evaluations = replay.solve(crowson_solver(case), denoise, start, times)
    np.testing.assert_allclose(states[-1], CROWSON[f"{name}/final"], rtol=1e-9, atol=1e-11)
    assert evaluations == CROWSON[f"{name}/nfe"]


FAST, FAST_META = replay.load("k_diffusion_fast.npz")


@pytest.mark.parametrize("name", FAST_META["cases"])
def test_k_diffusion_fast(name):
    """Step by step; with η its last step, which would go below σ_min, adds no noise."""
    case, sde, x = FAST_META["cases"][name], sdes.EDM(), jnp.asarray(80 * FAST["z0_m2"])
    times = jnp.asarray(solvers.grids.LogSNRUniform(case["n"] // 3 + 1, end=case["sigma_min"]).times(sde))
    last, evaluations, denoise = len(times) - 2, 0, replay.mixture(FAST).denoise(sde)
    theirs = np.concatenate([FAST[f"{name}/states"][1:], FAST[f"{name}/final"][None]])
    draws = FAST.get(f"{name}/noise", np.zeros_like(theirs))
    carry = solvers.AncestralSteps(solvers.DPMSolverFast(), 0.0).init(x, last + 1)
    for k, (t, s) in enumerate(itertools.pairwise(times)):
        solver = solvers.AncestralSteps(solvers.DPMSolverFast(case["n"] % 3), case["eta"] if k < last else 0.0)
        x, carry, made = replay.step(solver, denoise, x, t, s, carry, [draws[k]])
        np.testing.assert_allclose(x, theirs[k], rtol=1e-9, atol=1e-10)
        evaluations += int(np.max(made))
    assert evaluations == FAST[f"{name}/nfe"] == case["n"]


def diffusers_solver(case):
    """(solver, whether the last step goes to σ = 0)."""
    scheduler, config = case["scheduler"].removesuffix("Scheduler"), case["config"]
    order, to_zero = config.get("solver_order"), config.get("final_sigmas_type", "zero") == "zero"
    kind = "taylor" if config.get("solver_type") == "heun" else "dpmsolver"
    if scheduler in ("DPMSolverMultistep", "EDMDPMSolverMultistep"):
        fields = {"lower_order_below": 15, "curvature": 0.5}
        if config["algorithm_type"] == "dpmsolver":
            return solvers.DPMSolverMultistep(order, kind, **fields), to_zero
        return {
            1: solvers.DDIM(),
            2: solvers.DPMSolverPP2M(kind, 15),
            3: solvers.DPMSolverPP3M(kind, **fields),
        }[order], to_zero
    if scheduler == "UniPCMultistep":
        return solvers.UniPC(order, config["solver_type"], "x0" if config["predict_x0"] else "eps"), to_zero
    return {
        "DEISMultistep": (solvers.DEIS(order or 1, "log_rho", 15), False),
        "LMSDiscrete": (solvers.LMS(), True),
        "KDPM2Discrete": (solvers.DPM2(), True),
        "HeunDiscrete": (solvers.RungeKutta("heun"), True),
    }[scheduler]


def diffusers_times(name, case, to_zero):
    """(sde, times) with the σ/α at which the scheduler stands, the last one 0 or its σ_min."""
    ratios = DIFFUSERS[f"{name}/model_in_sigma"]
    if case["scheduler"].startswith(("KDPM2", "Heun")):
        ratios = ratios[::2]  # the others are inside of the steps
    ratios = np.append(ratios, 0.0 if to_zero else np.exp(-0.5 * DDPM.log_snr(jnp.asarray(1e-3))))
    if case["family"] != "sg":
        return sdes.EDM(sigma_max=200.0), ratios
    return VP, np.array([0.0 if r == 0 else VP.time_of_log_snr(-2 * np.log(r)) for r in ratios])


SCHEDULED = [
    name
    for name, case in DIFFUSERS_META["cases"].items()
    if case["scheduler"] not in ("PNDMScheduler", "DPMSolverSinglestepScheduler")
]


# Each is a program more to compile, and differs little from another.
SELDOM = ("UniPC_bh1_o1", "UniPC_bh1_o3", "UniPC_bh2_o1", "_o1_midpoint", "_o2_x00", "DEIS_o2", "EDMDPMSolver")


@pytest.mark.few(24)
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if any(s in n for s in SELDOM) else ()) for n in SCHEDULED]
)
def test_diffusers(name):
    case = DIFFUSERS_META["cases"][name]
    solver, to_zero = diffusers_solver(case)
    sde, times = diffusers_times(name, case, to_zero)
    # An EDM scheduler starts from the variance of data of variance 1 with noise of σ_max.
    start = DIFFUSERS["z0_m2"] * {"sg": 1.0, "ve": times[0], "edm": np.hypot(1, times[0])}[case["family"]]
    states, _ = replay.solve(solver, replay.mixture(DIFFUSERS).denoise(sde), start, times)
    # x̂0 = (x − σ ε̂)/α in float32, at σ/α = 157, is where most of the difference is made: 3 · 157 · 6e-8 = 3e-5.
    tolerance = 5e-4 if case["config"].get("predict_x0") is False else 3e-5
    tolerance = 5e-6 if case["family"] == "edm" else tolerance  # which reads x̂0 from EDM's preconditioning
    np.testing.assert_allclose(states[-1], DIFFUSERS[f"{name}/final"], rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", [n for n in DIFFUSERS_META["cases"] if n.startswith("PNDM")])
def test_diffusers_pndm(name):
    """On the levels 1000 − 1000/n · i + 1; its last step goes nowhere, from the first level to itself."""
    case = DIFFUSERS_META["cases"][name]
    steps = case["num_inference_steps"]
    solver = solvers.PNDM("plms" if case["config"]["skip_prk_steps"] else "runge_kutta")
    times = (np.arange(steps)[::-1] * (1000 // steps) + 1) / 1000
    denoise = replay.mixture(DIFFUSERS).denoise(DDPM)
    states, evaluations = replay.solve(solver, denoise, DIFFUSERS["z0_m2"], times)
    np.testing.assert_allclose(states[-1], DIFFUSERS[f"{name}/final"], rtol=0, atol=1e-4)
    assert evaluations == len(DIFFUSERS[f"{name}/model_in_sigma"]) - 1


# Its step of order 3 takes the state between by its step of order 2, which is not the paper's.
SINGLESTEP = [n for n in DIFFUSERS_META["cases"] if n.startswith("DPMSolverSinglestep") and "_o2_" in n]


@pytest.mark.parametrize("name", SINGLESTEP)
def test_diffusers_singlestep(name):
    """In blocks of two of its levels; the last level is σ = 0 (++) or σ_min."""
    case = DIFFUSERS_META["cases"][name]
    _, times = diffusers_times(name, case, case["config"]["final_sigmas_type"] == "zero")
    denoise, x = replay.mixture(DIFFUSERS).denoise(VP), DIFFUSERS["z0_m2"]
    steps = case["num_inference_steps"]
    blocks = [2] * (steps // 2) + [1] * (steps % 2)
    if steps % 2 == 0 and times[-1] == 0:
        blocks[-1:] = [1, 1]
    ends = np.cumsum([0, *blocks])
    for first, last in itertools.pairwise(ends):
        solver = solvers.DDIM()
        if last - first == 2:
            half = 0.5 * np.asarray(VP.log_snr(jnp.asarray(times[first : last + 1])))
            r = (half[1] - half[0]) / (half[2] - half[0])
            plus = case["config"]["algorithm_type"] == "dpmsolver++"
            solver = solvers.DPMSolverPP2S(r) if plus else solvers.DPMSolver(2, r)
        x = replay.solve(solver, denoise, x, times[[first, last]])[0][-1]
    np.testing.assert_allclose(x, DIFFUSERS[f"{name}/final"], rtol=0, atol=5e-4)
