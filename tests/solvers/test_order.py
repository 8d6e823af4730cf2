"""Order of convergence on a mixture, whose dynamics are not linear, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sdes, solvers
from score_sde.denoising.gaussian_mixture import GaussianMixture
from score_sde.solvers import sample
from tests import ground_truth
from tests.solvers import replay

MIX = ground_truth.POINTS
ARRAYS, _ = replay.load("ode.npz")
START = np.random.default_rng(0).standard_normal((8, 2))


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def exact_denoise(mixture, sde):
    return GaussianMixture(*(jnp.asarray(part) for part in mixture)).denoise(sde)


def vp_coefficients(t, low=0.1, high=20.0):
    """(α, σ, α', σ') of VP, written out."""
    beta, integral = low + t * (high - low), low * t + (high - low) * t**2 / 2
    alpha = np.exp(-integral / 2)
    sigma = np.sqrt(-np.expm1(-integral))
    return alpha, sigma, -beta * alpha / 2, beta * alpha**2 / (2 * sigma)


def edm_coefficients(t):
    return 1.0, t, 0.0, 1.0


PROCESSES = {
    "vp": (sdes.VP(), vp_coefficients, 0.05, 1.0),
    "edm": (sdes.EDM(sigma_max=10.0), edm_coefficients, 0.1, 10.0),
}
ORDERS = {
    "euler": (solvers.Euler(), 1),
    "ddim": (solvers.DDIM(), 1),
    "heun": (solvers.Heun(), 2),
    "edm_heun": (solvers.EDMHeun(), 2),
    "ralston": (solvers.EDMHeun(fraction=2 / 3), 2),
}


@pytest.fixture(scope="module")
def flows():
    """x(end) of the probability flow from START, by another code and another method."""
    return {
        name: ground_truth.probability_flow(MIX, scale * START, sde.t_max, end, coefficients)
        for name, (sde, coefficients, end, scale) in PROCESSES.items()
    }


@pytest.mark.few(5)
@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("name", ORDERS)
def test_halving_the_step_divides_the_error_by_2_to_the_order(name, process, flows):
    sde, _, end, scale = PROCESSES[process]
    solver, order = ORDERS[name]
    errors = []
    for steps in (80, 160, 320):
        grid = solvers.grids.EDMRho(steps, end=end, to_zero=False)
        x = sample(jax.random.key(0), exact_denoise(MIX, sde), solver, grid, (8, 2), x_start=scale * START).x
        errors.append(np.abs(np.asarray(x) - flows[process]).max())
    rates = np.log2(np.array(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(rates, order, atol=0.15)


def test_adaptive_solves_end_within_their_tolerance(flows):
    for process, (sde, _, end, scale) in PROCESSES.items():
        for tolerance in (1e-4, 1e-8):
            solver = solvers.ProbabilityFlow(tolerance, tolerance)
            grid = solvers.grids.Uniform(1, end=end)
            x = sample(jax.random.key(0), exact_denoise(MIX, sde), solver, grid, (8, 2), x_start=scale * START).x
            assert np.abs(np.asarray(x) - flows[process]).max() < 100 * tolerance


def test_euler_maruyama_has_strong_order_1():
    """One Brownian path, seen by steps of three lengths: the noise does not depend on x, so the order is 1, not 1/2."""
    sde, finest, number = sdes.VP(), 1024, 64
    rng = np.random.default_rng(1)
    start, z = rng.standard_normal((number, 2)), rng.standard_normal((finest, number, 2))
    ends = {}
    for steps in (32, 128, finest):
        draws = z.reshape(steps, finest // steps, number, 2).sum(axis=1) / np.sqrt(finest // steps)
        times = np.linspace(1.0, 0.1, steps + 1)
        ends[steps] = replay.solve(solvers.EulerMaruyama(), exact_denoise(MIX, sde), start, times, draws)[0][-1]
    coarse, fine = (np.mean(np.abs(ends[steps] - ends[finest])) for steps in (32, 128))
    assert coarse / fine > 3.4  # 4.6 for order 1 against the 1024 steps, 2.3 for order 1/2


def test_other_exact_solutions_of_the_flow():
    """`ground_truth` and the adaptive solver against DOP853 at 1e-12 by others; the 2021 code's RK45 is off by 1e-3."""
    mix = ground_truth.Mixture(*(ARRAYS[f"m2_mix_{part}"] for part in ("w", "mu", "sd")))
    cases = {
        "m2/vp_t0.001": (sdes.VP(), vp_coefficients, ARRAYS["z0"], 1e-3),
        "m2/ve_sigma_min": (sdes.EDM(), edm_coefficients, 80 * ARRAYS["z0"], 0.002),
    }
    for name, (sde, coefficients, start, end) in cases.items():
        theirs = ARRAYS[name]
        close = {"rtol": 0, "atol": 1e-7}
        np.testing.assert_allclose(
            ground_truth.probability_flow(mix, start, sde.t_max, end, coefficients), theirs, **close
        )
        denoise, solver = exact_denoise(mix, sde), solvers.ProbabilityFlow(1e-10, 1e-10)
        grid = solvers.grids.Uniform(1, end=end)
        x = sample(jax.random.key(0), denoise, solver, grid, start.shape, x_start=start).x
        np.testing.assert_allclose(np.asarray(x), theirs, **close)


@pytest.mark.few(2)
@pytest.mark.parametrize("name", ["vp", "subvp", "ve"])
def test_the_2021_codes_ode_sampler(name):
    """scipy's RK45 at 1e-5, over the whole batch and with a float32 network, and ours, image by image, agree with the truth."""
    sde = {"vp": sdes.VP(), "subvp": sdes.SubVP(), "ve": sdes.VE()}[name]
    end = 1e-5 if name == "ve" else 1e-3
    case = f"{name}_ode_rk45_tol1e-05"
    start = ARRAYS[f"{case}/z"]
    mix = ground_truth.Mixture(*(ARRAYS[f"m2_mix_{part}"] for part in ("w", "mu", "sd")))

    def solve(tolerance):
        args = jax.random.key(0), exact_denoise(mix, sde), solvers.ProbabilityFlow(tolerance, tolerance)
        return sample(*args, solvers.grids.Uniform(1, end=end), start.shape, x_start=start)

    exact, ours = (np.asarray(solve(tolerance).x) for tolerance in (1e-10, 1e-5))
    np.testing.assert_allclose(ARRAYS[f"{case}/final"], exact, atol=1e-3)
    np.testing.assert_allclose(ours, exact, atol=1e-3)
