"""Grids and the noise levels that solvers visit, against other people's numbers (tests/golden/process)."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sdes, solvers
from score_sde.denoising.estimate import Estimate
from score_sde.denoising.function_denoiser import FunctionDenoiser
from score_sde.solvers import grids
from tests.sdes.peers import load, relative

STEPS = pytest.mark.parametrize("n", [5, 10, 18, 35])
VP, EDM, DDPM = sdes.VP(), sdes.EDM(sigma_max=100.0), sdes.DiscreteVP.ddpm()
IDDPM_FIRST = 991  # the noisiest timestep of iDDPM with σ/α <= 81


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def levels(sde, times):
    """σ/α."""
    return np.exp(-0.5 * np.asarray(sde.log_snr(jnp.asarray(times))))


@STEPS
def test_k_diffusion(n):
    peer = load("k_diffusion")
    vp = grids.Uniform(n, end=1e-3, to_zero=True).times(VP)
    ours = {
        "karras": grids.EDMRho(n, 80.0).times(EDM),
        "exponential": grids.LogSNRUniform(n, 80.0, 0.002, to_zero=True).times(EDM),
        "polyexponential_rho2": grids.PolyExponential(n, 80.0, rho=2.0).times(EDM),
        "vp": np.append(levels(VP, vp[:-1]), 0.0),
    }
    for name, times in ours.items():
        np.testing.assert_allclose(times, peer[f"{name}_n{n}"], rtol=1e-11, err_msg=name)


def test_discrete_levels_of_k_diffusion():
    """Even in timestep from 999 to 0; between timesteps theirs is linear in log σ/α: within 1e-4 of ours."""
    theirs = load("k_diffusion")["disc_get_sigmas_18"]
    times = grids.Uniform(18, end=1e-3, to_zero=True).times(DDPM)
    assert relative(levels(DDPM, times[:-1]), theirs[:-1]) < 1e-4
    knots = DDPM.log_snr(jnp.arange(1, 1001) / 1000)
    same = sdes.LogSNR(lambda t: jnp.interp(1000 * t - 1, jnp.arange(1000.0), knots))
    assert relative(levels(same, times[:-1]), theirs[:-1]) < 5e-7  # its t is float32
    assert times[-1] == theirs[-1] == 0


@STEPS
def test_edm(n):
    """The four columns; iDDPM's are its own levels, at the timesteps that "edm" chooses."""
    peer, iddpm = load("edm"), sdes.DiscreteVP.iddpm()
    ours = {
        "edm": grids.EDMRho(n, 80.0).times(EDM)[:-1],
        "vp": levels(VP, grids.Uniform(n - 1).times(VP)),
        "ve": grids.LogSNRUniform(n - 1, 100.0, 0.02).times(EDM),
        "iddpm": levels(iddpm, grids.TimestepSpacing(n, "edm", first=IDDPM_FIRST).times(iddpm)[:-1]),
    }
    for name, sigma in ours.items():
        np.testing.assert_allclose(sigma, peer[f"steps_sigma_{name}_n{n}"], rtol=1e-11, err_msg=name)
    largest = levels(iddpm, np.asarray([IDDPM_FIRST + 1, IDDPM_FIRST + 2]) / 1000)
    assert largest[0] < 81 < largest[1]


@pytest.mark.few(3)
@STEPS
@pytest.mark.parametrize("name", ["vp_vp_vp", "ve_ve_none", "edm_vp_vp", "edm_ve_none", "iddpm_linear_none"])
def test_levels_that_heun_of_edm_visits(n, name):
    """Each level twice, the first once, whatever the schedule and scaling that carry it."""
    peer = load("edm")
    visited = []

    def denoise(x, t):
        visited.append(float(t))
        return Estimate(x, x)

    sigmas = np.append(peer[f"steps_sigma_{name.split('_')[0]}_n{n}"], 0.0)
    wide = sdes.EDM(sigma_max=200.0)
    times = grids.Given(sigmas).times(wide)
    solver, x = solvers.EDMHeun(), jnp.ones((1, 1))
    with jax.disable_jit():
        for t, s in itertools.pairwise(times):
            carry = solver.init(x, n)
            step = visited[:]
            solver.step(jax.random.key(0), FunctionDenoiser(wide, denoise), x, jnp.asarray(t), jnp.asarray(s), carry)
            assert len(visited) - len(step) == (2 if s > 0 else 1)
    np.testing.assert_allclose(visited, peer[f"heun_sigma_{name}_n{n}"], rtol=1e-9)


DPM_SDES = {"linear": VP, "disc_lin": DDPM}
DPM_GRIDS = {
    "logSNR": grids.LogSNRUniform,
    "time_uniform": grids.Uniform,
    "time_quadratic": grids.Quadratic,
}


def singlestep_orders(evaluations, order):
    """Of `DPMSolverFast` for order 3; for order 2, twos and a one for what is left."""
    if order == 2:
        return [2] * (evaluations // 2) + [1] * (evaluations % 2)
    solver = solvers.DPMSolverFast(evaluations % 3)
    return [int(solver._order(jnp.asarray(left, jnp.int32))) for left in range(evaluations // 3 + 1, 0, -1)]


def dpm_times(sde, kind, n):
    """The whole grid, and the ends of the singlestep steps by order: of their own count in λ, else among the whole."""
    grid = DPM_GRIDS[kind]
    found = {"steps": grid(n).times(sde)}
    for order in (2, 3):
        orders = singlestep_orders(n, order)
        outer = grid(len(orders)).times(sde) if kind == "logSNR" else found["steps"][np.cumsum([0, *orders])]
        found[f"single{order}"] = (outer, orders)
    return found


@pytest.mark.few(12)
@STEPS
@pytest.mark.parametrize("kind", DPM_GRIDS)
@pytest.mark.parametrize("name", [*DPM_SDES, "disc_cos"])
def test_dpm_solver(n, kind, name):
    """Of the cosine table in λ ours differ by up to 5e-4 at low noise: see below."""
    peer = load("dpm_solver")
    sde = sdes.DiscreteVP.from_betas(peer["betas_cos"][:996]) if name == "disc_cos" else DPM_SDES[name]
    rtol = 5e-4 if (name, kind) == ("disc_cos", "logSNR") else 1e-11
    found = dpm_times(sde, kind, n)
    np.testing.assert_allclose(found["steps"], peer[f"{name}_steps_{kind}_n{n}"], rtol=rtol)
    for order in (2, 3):
        times, orders = found[f"single{order}"]
        np.testing.assert_array_equal(orders, peer[f"{name}_single{order}_{kind}_n{n}_orders"])
        np.testing.assert_allclose(times, peer[f"{name}_single{order}_{kind}_n{n}_t"], rtol=rtol)


@STEPS
def test_the_cosine_table_in_log_snr_against_the_exact_times(n):
    """λ at 1e-3, their end, lies below the first level, 1/996, where they extrapolate the table to α(0) > 1.

    Each is what its own λ there makes of it. That of a process with α(0) = 1 is the nearer to the cosine without a table.
    """
    peer = load("dpm_solver")
    betas = peer["betas_cos"][:996]
    sde, theirs = sdes.DiscreteVP.from_betas(betas), peer[f"disc_cos_steps_logSNR_n{n}"]
    log_alphas = 0.5 * np.cumsum(np.log1p(-betas.astype(np.longdouble)))

    def log_snr(log_alpha):
        return float(2 * log_alpha - np.log(-np.expm1(2 * log_alpha)))

    t = np.longdouble(1e-3)
    extrapolated = log_alphas[0] + (log_alphas[1] - log_alphas[0]) * (t * 996 - 1)
    through_one = log_alphas[0] * t * 996
    true = float(sdes.Cosine(offset=0.008).log_snr(996e-6))
    assert abs(log_snr(through_one) - true) < abs(log_snr(extrapolated) - true)
    first = log_snr(log_alphas[-1])
    for end, times in ((extrapolated, theirs), (through_one, grids.LogSNRUniform(n).times(sde))):
        exact = sde.time_of_log_snr(jnp.linspace(first, log_snr(end), n + 1))
        np.testing.assert_allclose(exact[1:-1], times[1:-1], rtol=1e-9)


@STEPS
def test_timesteps_of_diffusers(n):
    """The integers exactly; σ/α in its float32, whose 1 − ᾱ has lost 1e-5 at low noise."""
    peer = load("diffusers")
    for spacing in ("leading", "linspace", "trailing"):
        ddpm = grids.TimestepSpacing(n, spacing)
        multistep = grids.TimestepSpacing(n, spacing, drop_last=True)
        np.testing.assert_array_equal(ddpm.timesteps(), peer[f"ddpm_{spacing}_n{n}_timesteps"])
        np.testing.assert_array_equal(multistep.timesteps(), peer[f"dpmpp_{spacing}_n{n}_timesteps"])
        times = multistep.times(DDPM)
        assert relative(levels(DDPM, times[:-1]), peer[f"dpmpp_{spacing}_n{n}_sigmas"][:-1]) < 1e-5
        assert times[-1] == peer[f"dpmpp_{spacing}_n{n}_sigmas"][-1] == 0


@STEPS
def test_sigmas_of_diffusers(n):
    """On DDPM's table from the last level to the first, then 0. Their first is off by 8e-5 in float32, so it is given."""
    peer = load("diffusers")
    first = float(peer[f"dpmpp_use_karras_sigmas_n{n}_sigmas"][-2])
    assert 5e-5 < abs(first / levels(DDPM, 1e-3) - 1) < 1e-4
    end = float(DDPM.time_of_log_snr(jnp.asarray(-2 * np.log(first))))
    made = {
        "karras_sigmas": grids.EDMRho(n, end=end),
        "exponential_sigmas": grids.LogSNRUniform(n, end=end, to_zero=True),
        "lu_lambdas": grids.LogSNRUniform(n, end=end, to_zero=True),
        "beta_sigmas": grids.BetaSpaced(n, end=end),
    }
    for name, grid in made.items():
        times = grid.times(DDPM)[:-1]
        theirs = peer[f"dpmpp_use_{name}_n{n}_sigmas"][:-1]
        assert relative(levels(DDPM, times), theirs) < 2e-6, name
        assert np.max(np.abs(1000 * times - 1 - peer[f"dpmpp_use_{name}_n{n}_timesteps"])) < 1.01  # rounded, or cut
    for name, grid in (
        ("karras", grids.EDMRho(n, 80.0)),
        ("exponential", grids.LogSNRUniform(n, 80.0, 0.002, to_zero=True)),
    ):
        times = grid.times(EDM)[:-1]
        assert relative(times, peer[f"edm_{name}_n{n}_sigmas"][:-1]) < 1e-6
        np.testing.assert_allclose(np.log(times) / 4, peer[f"edm_{name}_n{n}_timesteps"], atol=1e-6)


def test_coefficients_of_lms():
    """x_{i+1} − x_i = Σ_j c_ij ε̂_{i−j}: with ε̂_i the ith unit vector the steps are the coefficients."""
    peer = load("k_diffusion")
    sigmas, number = peer["lms_sigmas"], len(peer["lms_sigmas"]) - 1

    def denoise(x, t):
        eps = jax.nn.one_hot(jnp.argmin(jnp.abs(jnp.asarray(sigmas) - t)), number, dtype=x.dtype)[None]
        return Estimate(x - t * eps, eps)

    start, kept = jnp.zeros((1, number)), tuple(range(number + 1))
    args = jax.random.key(0), FunctionDenoiser(EDM, denoise), solvers.LMS(4), grids.Given(sigmas), start.shape
    steps = np.diff(np.asarray(solvers.sample(*args, x_start=start, keep=kept).trajectory)[:, 0], axis=0)
    theirs = np.zeros((number, number))
    for i, j in itertools.product(range(number), range(4)):
        if i >= j:
            theirs[i, i - j] = peer["lms_coeff_order4"][i, j]
    np.testing.assert_allclose(steps, theirs, atol=1e-12)
