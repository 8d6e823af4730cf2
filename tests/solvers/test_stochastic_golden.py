"""The stochastic samplers of k-diffusion and diffusers, step by step with their own noise.

Both run here in EDM's σ = t: a sampler of another SDE is the same map of x/α.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sdes, solvers
from score_sde.solvers import brownian
from score_sde.solvers.ode.dpm2 import DPM2
from score_sde.solvers.ode.dpm_solver import DPMSolverPP2S
from tests.solvers import replay
from tests.solvers.draws import replace_noise

ARRAYS, META = replay.load("stochastic.npz")
CASES = META["cases"]
LENGTH = 72  # the most steps, and more
SDE = sdes.EDM(sigma_max=200.0)


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


@functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
def run(solver, x, times, num_steps, draws):
    """The states after each step; draws[k, n] is the nth draw of step k."""
    denoise = replay.mixture(ARRAYS).denoise(SDE)

    def body(k, state):
        x, carry, states = state
        left = iter(draws[k])

        def given(key, sde, x, path, levels, gaps):
            return tuple(jnp.sqrt(-jnp.expm1(-2 * gap)) * next(left) for gap in gaps), path

        with pytest.MonkeyPatch.context() as patch:
            replace_noise(patch, lambda key, x: draws[k, 0])
            patch.setattr(brownian, "increments", given)
            x, carry, _ = solver.step(jax.random.key(0), denoise, x, times[k], times[k + 1], carry)
        return x, carry, states.at[k].set(x)

    state = x, solver.init(x, num_steps), jnp.zeros((LENGTH, *x.shape))
    return jax.lax.fori_loop(0, num_steps, body, state)[2]


def solve(solver, x, times, draws, each=1):
    """The states of a solve through `times`, with `each` draws a step."""
    steps = len(times) - 1
    padded = np.zeros((LENGTH, 2, *x.shape))
    if draws is not None:
        for step in range(min(steps, -(-len(draws) // each))):
            here = draws[each * step : each * (step + 1)]
            padded[step, : len(here)] = here
    states = run(solver, jnp.asarray(x), np.pad(times, (0, LENGTH - steps), mode="edge"), steps, padded)
    return np.asarray(states)[:steps]


def k_diffusion(case):
    """(solver, draws a step)."""
    knobs = {name: case[name] for name in ("eta", "s_noise", "r", "solver_type") if name in case}
    return {
        "euler_ancestral": lambda: (solvers.AncestralSteps(solvers.DDIM(), **knobs), 1),
        "dpm_2_ancestral": lambda: (solvers.AncestralSteps(DPM2(), **knobs), 1),
        "dpmpp_2s_ancestral": lambda: (solvers.AncestralSteps(DPMSolverPP2S(), **knobs), 1),
        "dpmpp_sde": lambda: (solvers.DPMSolverPPSDE(**knobs), 2),
        "dpmpp_2m_sde": lambda: (solvers.DPMSolverPP2MSDE(**knobs), 1),
        "dpmpp_3m_sde": lambda: (solvers.DPMSolverPP3MSDE(solver_type="dpmsolver", **knobs), 1),
        "heun": lambda: (
            solvers.Churn(solvers.Heun(), case["s_churn"], case["s_tmin"], case["s_tmax"], case["s_noise"]),
            1,
        ),
    }[case["sampler"]]()


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("kd/")])
def test_k_diffusion(name):
    case = CASES[name]
    times = solvers.grids.EDMRho(case["n_sigmas"], case["sigma_max"], case["sigma_min"], case["rho"]).times(SDE)
    solver, each = k_diffusion(case)
    states = solve(solver, ARRAYS["z0_m2"] * 80.0, times, ARRAYS.get(f"{name}/noise"), each)
    theirs = np.concatenate([ARRAYS[f"{name}/states"][1:], ARRAYS[f"{name}/final"][None]])
    if case["sampler"] == "heun":  # its states are recorded after the churn
        states, theirs = states[-1:], theirs[-1:]
    np.testing.assert_allclose(states, theirs, rtol=1e-9, atol=1e-10)


def test_euler_ancestral_is_ddim_with_eta():
    times = solvers.grids.EDMRho(10, 80.0).times(SDE)
    draws, x = ARRAYS["kd/euler_ancestral_eta1_n10/noise"], 80.0 * ARRAYS["z0_m2"]
    for eta in (0.4, 1.0):
        ours = solve(solvers.DDIM(eta), x, times, draws)
        np.testing.assert_allclose(
            ours, solve(solvers.AncestralSteps(solvers.DDIM(), eta), x, times, draws), rtol=1e-10
        )
    theirs = ARRAYS["kd/euler_ancestral_eta1_n10/final"]
    np.testing.assert_allclose(ours[-1], theirs, rtol=1e-9, atol=1e-10)


def diffusers(case):
    config, name = case["config"], case["scheduler"]
    if "Ancestral" in name:
        return solvers.AncestralSteps(solvers.Euler())
    solver_type = {1: "heun", 2: config.get("solver_type", "midpoint"), 3: "dpmsolver"}[config["solver_order"]]
    if config["solver_order"] == 1:
        return solvers.SASolver(1.0, predictor_order=1, corrector_order=0)
    return (solvers.DPMSolverPP2MSDE if config["solver_order"] == 2 else solvers.DPMSolverPP3MSDE)(
        1.0, 1.0, solver_type
    )


def setting(name):
    """(times, x at the first, noise) of a diffusers case, in σ."""
    case, sigmas = CASES[name], ARRAYS[f"{name}/model_in_sigma"]
    times = np.append(sigmas, 0.0)
    # Of an EDM scheduler too: it starts from the variance of data of variance 1 with noise of σ_max.
    scale = times[0] if case["family"] == "ve" else np.sqrt(1 + times[0] ** 2)
    return times, ARRAYS["diffusers_z0_m2"] * scale, ARRAYS.get(f"{name}/noise")


@pytest.mark.parametrize(
    "name",
    [n for n in CASES if n.startswith("diffusers/") and not any(p in n for p in ("_o3_", "Inverse", "churn", "KDPM2"))],
)
def test_diffusers(name):
    times, x, draws = setting(name)
    ours = solve(diffusers(CASES[name]), x, times, draws)[-1]
    np.testing.assert_allclose(ours, ARRAYS[f"{name}/final"], rtol=0, atol=5e-6)


@pytest.mark.parametrize("name", ["diffusers/Euler_churn_n10", "diffusers/EDMEuler_churn_n10"])
def test_diffusers_churn_never_denoises_the_churned_state(name):
    """It takes ε̂ (EDM: x̂0's residual) from before the noise was added; that is not EDM's Algorithm 2, as k-diffusion is."""
    times, x, draws = setting(name)
    given = CASES[name]["step_kwargs"]
    gamma, used = min(given["s_churn"] / 10, np.sqrt(2) - 1), iter(draws)
    denoise = jax.jit(replay.mixture(ARRAYS).denoise(SDE))
    for t, s in itertools.pairwise(times):
        estimate, later, before = denoise(x, t), t, x
        if t >= given["s_tmin"]:
            later = t * (1 + gamma)
            x = x + given["s_noise"] * np.sqrt(later**2 - t**2) * next(used)
        eps = np.asarray(estimate.eps)
        if name.startswith("diffusers/EDM"):  # F is from (before, t), c_skip and c_out of (x, later)
            eps = (x - _edm_decode(before, t, np.asarray(estimate.x0), x, later)) / later
        x = x + (s - later) * eps
    np.testing.assert_allclose(x, ARRAYS[f"{name}/final"], rtol=2e-4, atol=2e-4)
    right = solvers.Churn(solvers.Euler(), given["s_churn"], given["s_tmin"], np.inf, given["s_noise"])
    times, start, _ = setting(name)
    assert np.abs(solve(right, start, times, draws)[-1] - x).max() > 0.05


def _edm_decode(x, sigma, x0, x_later, later, data=0.5):
    """x̂0 at (x_later, later) from the raw output that gave x0 at (x, sigma), in EDM's preconditioning."""
    skip, out = (lambda level: data**2 / (level**2 + data**2)), (lambda level: level * data / np.hypot(level, data))
    return skip(later) * x_later + out(later) * (x0 - skip(sigma) * x) / out(sigma)


# The third order of SDE-DPM-Solver++, typed from Lu et al., arXiv 2211.01095, App. A, in x and α, σ of a VP.


def third_order(sigmas, z, draws, *, sign=1, second="taylor", lower_order_below=0):
    """x at σ = 0 from z at the first σ/α. `sign` is that of the 1/2 in the weight of the second difference."""
    alpha = 1 / np.hypot(1, sigmas)
    denoise, log_ratio = jax.jit(replay.mixture(ARRAYS).denoise(SDE)), -np.log(sigmas[:-1])
    x, past, steps = z, [], len(sigmas) - 1
    for k in range(steps - 1):
        past = [np.asarray(denoise(x / alpha[k], sigmas[k]).x0), *past][:3]
        left = steps - k if steps < lower_order_below else 3
        x = _third_order_step(x, past[:left], alpha[k : k + 2], sigmas[k : k + 2], log_ratio, k, draws[k], sign, second)
    return np.asarray(denoise(x / alpha[-2], sigmas[-2]).x0)  # the last step, to σ = 0


def _third_order_step(x, past, alpha, ratio, log_ratio, k, draw, sign, second):
    h = log_ratio[k + 1] - log_ratio[k]
    gain, sigma = -np.expm1(-2 * h), alpha * ratio
    x = sigma[1] / sigma[0] * np.exp(-h) * x + alpha[1] * gain * past[0] + sigma[1] * np.sqrt(gain) * draw
    if len(past) == 1:
        return x
    r0 = (log_ratio[k] - log_ratio[k - 1]) / h
    first = (past[0] - past[1]) / r0
    if len(past) == 2:
        return x + alpha[1] * (0.5 * gain if second == "midpoint" else 1 - gain / (2 * h)) * first
    r1 = (log_ratio[k - 1] - log_ratio[k - 2]) / h
    before = (past[1] - past[2]) / r1
    slope, curvature = first + r0 / (r0 + r1) * (first - before), (first - before) / (r0 + r1)
    return x + alpha[1] * ((1 - gain / (2 * h)) * slope + ((gain - 2 * h) / (2 * h) ** 2 + sign * 0.5) * curvature)


@pytest.mark.few(3)
@pytest.mark.parametrize("n", [10, 20, 35, 70])
@pytest.mark.parametrize("grid", [solvers.grids.LogSNRUniform, solvers.grids.EDMRho])
def test_third_order_sde_multistep_is_the_formula(n, grid):
    """In float64, with new noise at each step."""
    times = np.append(grid(n - 1, 80.0, 0.02, to_zero=False).times(SDE), 0.0)
    rng = np.random.default_rng(n)
    z, draws = ARRAYS["z0_m2"], rng.standard_normal((n, *ARRAYS["z0_m2"].shape))
    ours = solve(solvers.DPMSolverPP3MSDE(solver_type="dpmsolver"), z * np.hypot(1, times[0]), times, draws)[-1]
    np.testing.assert_allclose(ours, third_order(times, z, draws), rtol=1e-9, atol=1e-10)


SDE3, SDE3_META = replay.load("diffusers_sde3.npz")
THIRD = {name: ARRAYS for name in CASES if "_o3_" in name} | dict.fromkeys(SDE3_META["cases"], SDE3)


@pytest.mark.few(3)
@pytest.mark.parametrize("name", THIRD)
def test_diffusers_third_order_sde_has_a_wrong_sign(name):
    """Its coefficient of the second difference is (1 − e^{−k} − k)/k² − 1/2 where the derivation has + 1/2.

    It reads x̂0 = (x − σ ε̂)/α in float32: of x up to 3 at σ/α up to 157, that is off by 3 · 157 · 6e-8 = 3e-5.
    """
    pack = THIRD[name]
    sigmas, draws = np.append(pack[f"{name}/model_in_sigma"], 0.0), pack[f"{name}/noise"]
    how = {"second": "midpoint", "lower_order_below": 15}
    theirs = third_order(sigmas, ARRAYS["diffusers_z0_m2"], draws, sign=-1, **how)
    np.testing.assert_allclose(theirs, pack[f"{name}/final"], rtol=0, atol=3e-5)
    if len(sigmas) > 10:
        right = third_order(sigmas, ARRAYS["diffusers_z0_m2"], draws, **how)
        assert np.abs(theirs - right).max() > 0.05


def test_diffusers_dpm2_ancestral_asks_for_the_wrong_level():
    """The midpoint of log σ_t and log σ_down is σ_s, where k-diffusion evaluates; its second calls are one step further."""
    asked = ARRAYS["diffusers/KDPM2Ancestral_n10/model_in_sigma"]
    levels = np.concatenate([asked[:1], asked[2::2]])
    np.testing.assert_allclose(asked[1::2][:-1], levels[2:], rtol=1e-4)
    kept = np.sqrt(levels[:-1] * levels[1:] ** 2 / levels[:-1])
    np.testing.assert_allclose(kept, levels[1:], rtol=1e-12)


def test_inversion_by_diffusers_asks_at_the_level_that_it_goes_to():
    """x_s = x + (σ_s − σ_t) ε̂(x, σ_s) with x still at t: another step of order 1, which stands for the implicit one."""
    name = "diffusers/DDIMInverse_n10"
    levels = ARRAYS[f"{name}/model_in_sigma"]
    denoise = jax.jit(replay.mixture(ARRAYS).denoise(SDE))
    theirs = ours = ARRAYS["diffusers_z0_m2"]
    for t, s in itertools.pairwise([0.0, *levels]):
        seen = theirs * np.sqrt((1 + s**2) / (1 + t**2))  # x of VP, taken for one at s
        theirs = theirs + (s - t) * np.asarray(denoise(seen, s).eps)
    np.testing.assert_allclose(theirs / np.sqrt(1 + levels[-1] ** 2), ARRAYS[f"{name}/final"], rtol=2e-4, atol=2e-4)
    upward = solvers.SASolver(0.0, predictor_order=1, corrector_order=0)
    found = solve(upward, ours, levels, None)[-1]
    for t, s in itertools.pairwise(levels):
        ours = ours + (s - t) * np.asarray(denoise(ours, t).eps)
    np.testing.assert_allclose(found, ours, rtol=1e-9)
