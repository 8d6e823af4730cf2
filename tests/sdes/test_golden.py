"""The processes against numbers from other people's code. Where a peer is wrong, both are compared with the exact value."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sdes
from score_sde.denoising.dynamics import reverse_drift, velocity
from score_sde.denoising.estimate import Estimate
from tests.sdes.peers import load, zero_terminal

OF_2021 = {"vp": sdes.VP(), "subvp": sdes.SubVP(), "ve": sdes.VE()}


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def close(value, reference, rtol=1e-12, atol=1e-12):
    np.testing.assert_allclose(np.asarray(value), np.asarray(reference), rtol=rtol, atol=atol)


def wide(coefficient):
    return coefficient[:, None, None, None]


def levels(number):
    """t = i/N, i = 1 … N."""
    return jnp.arange(1, number + 1) / number


# yang-song/score_sde_pytorch, float64


@pytest.mark.parametrize("name", OF_2021)
def test_marginal_drift_diffusion_and_prior_of_score_sde(x64, name):
    sde, peer = OF_2021[name], load("score_sde")
    t, x = jnp.asarray(peer["t"]), jnp.asarray(peer["x"])
    close(wide(sde.alpha(t)) * x, peer[f"{name}_mean"])
    close(sde.sigma(t), peer[f"{name}_std"])
    close(wide(sde.drift(t)) * x, peer[f"{name}_drift"])
    # sub-VP's g² = β (1 − exp(−2 ∫β)) cancels in the peer: 1e-11 is what is left at t = 1e-5.
    close(sde.diffusion(t), peer[f"{name}_diffusion"], rtol=1e-10 if name == "subvp" else 1e-12)
    close(sde.prior_log_prob(x), peer[f"{name}_prior_logp_of_x"])


@pytest.mark.parametrize("name", OF_2021)
def test_reverse_sde_and_probability_flow_of_score_sde(x64, name):
    sde, peer = OF_2021[name], load("score_sde")
    t, x, score = (jnp.asarray(peer[key]) for key in ("t", "x", "score"))
    eps = -wide(sde.sigma(t)) * score
    estimate = Estimate((x - wide(sde.sigma(t)) * eps) / wide(sde.alpha(t)), eps)
    close(reverse_drift(sde, estimate, x, t), peer[f"{name}_rev_drift_pf0"], rtol=1e-10)
    size = np.abs(peer[f"{name}_drift"]) + np.abs(peer[f"{name}_diffusion"][:, None, None, None] ** 2 * peer["score"])
    assert np.all(np.abs(velocity(sde, estimate, t) - peer[f"{name}_rev_drift_pf1"]) <= 1e-10 * size)


@pytest.mark.parametrize("number", [100, 1000])
def test_ddpm_steps_are_the_transitions_of_its_table(x64, number):
    """Their step at `timestep` i is ours from i/N to (i + 1)/N in the table of β_i = β(i/(N − 1))/N, exactly."""
    peer = load("score_sde")
    t, x, betas = jnp.asarray(peer["t"]), jnp.asarray(peer["x"]), peer[f"vp_N{number}_discrete_betas"]
    sde = sdes.DiscreteVP.from_betas(betas)
    close(sde.alpha(levels(number)) ** 2, peer[f"vp_N{number}_alphas_cumprod"])
    i = jnp.floor(t * (number - 1))
    kernel = sde.transition(i / number, (i + 1) / number)
    close((wide(kernel.scale) - 1) * x, peer[f"vp_N{number}_disc_f"])
    close(kernel.std, peer[f"vp_N{number}_disc_G"])


@pytest.mark.parametrize("number", [100, 1000])
def test_smld_steps_are_the_transitions_of_ve(x64, number):
    """Their σ_i are ours at t = i/(N − 1), i = 0 … N − 1; the first step comes from data, with all of σ_0."""
    peer, sde = load("score_sde"), sdes.VE()
    close(sde.sigma(jnp.arange(number) / (number - 1)), peer[f"ve_N{number}_discrete_sigmas"])
    i = np.floor(peer["t"] * (number - 1))
    std = sde.transition(jnp.asarray((i - 1) / (number - 1)), jnp.asarray(i / (number - 1))).std
    close(np.where(i == 0, sde.sigma(0.0), std), peer[f"ve_N{number}_disc_G"], rtol=1e-11)
    assert not np.any(peer[f"ve_N{number}_disc_f"])


@pytest.mark.parametrize("name", ["vp", "subvp"])
def test_steps_of_the_discretized_process_are_off_by_the_step(x64, name):
    """Theirs against the exact transition of the continuous process: the error falls tenfold from N = 100 to 1000.

    Ours compose to the marginal whatever the step.
    """
    peer, sde = load("score_sde"), OF_2021[name]
    t = peer["t"]
    errors = []
    for number in (100, 1000):
        # DDPM's step i ends at (i + 1)/N; sub-VP's is Euler's from t.
        start = np.floor(t * (number - 1)) / number if name == "vp" else t
        keep = (start > 0.2) & (start + 1 / number <= 1)
        kernel = sde.transition(jnp.asarray(start[keep]), jnp.asarray(start[keep] + 1 / number))
        theirs = peer[f"{name}_N{number}_disc_G"][keep]
        errors.append(np.max(np.abs(theirs / np.asarray(kernel.std) - 1)))
    assert 5e-5 < errors[1] < 0.15 * errors[0]
    grid = jnp.linspace(0.0, 1.0, 101)
    variance = 0.0
    for s, u in itertools.pairwise(grid):
        kernel = sde.transition(s, u)
        variance = kernel.scale**2 * variance + kernel.std**2
    close(variance, sde.sigma(1.0) ** 2)


# yang-song/score_sde (JAX), float32


@pytest.mark.parametrize("name", OF_2021)
def test_score_sde_in_jax(name):
    sde, peer = OF_2021[name], load("score_sde_jax")
    t, x = jnp.asarray(peer["t"]), jnp.asarray(peer["x"])
    close(wide(sde.alpha(t)) * x, peer[f"{name}_marginal_prob_0"], rtol=2e-6, atol=1e-6)
    close(wide(sde.drift(t)) * x, peer[f"{name}_sde_0"], rtol=1e-6, atol=1e-6)
    close(sde.prior_log_prob(x), peer[f"{name}_prior_logp"], rtol=1e-6)
    # The peer's 1 − exp cancels where t is small: compare where it keeps six digits.
    late = peer["t"] > (0 if name == "ve" else 0.2)
    close(sde.sigma(t)[late], peer[f"{name}_marginal_prob_1"][late], rtol=2e-6, atol=0)
    close(sde.diffusion(t)[late], peer[f"{name}_sde_1"][late], rtol=2e-6, atol=0)


# NVlabs/edm: the table's VP and iDDPM columns as noise levels (their c_… are in test_parameterizations.py)


def test_vp_noise_levels_of_edm(x64):
    peer, sde = load("edm"), sdes.VP()
    # √(exp(∫β) − 1) and its inverse cancel in the peer at small t.
    close(jnp.exp(-0.5 * sde.log_snr(jnp.asarray(peer["t"]))), peer["VP_sigma_of_t"], rtol=1e-10)
    log_snr = -2 * jnp.log(jnp.asarray(peer["sigma"]))
    close(sde.time_of_log_snr(log_snr), peer["VP_sigma_inv_of_sigma"], rtol=1e-10)
    close(jnp.exp(-0.5 * sde.log_snr(1.0)), peer["VP_sigma_min_max"][1], rtol=1e-6)


def exact_iddpm(number, offset, max_beta):
    """½ log ᾱ_i in extended precision."""
    angle = np.longdouble(np.pi) / 2 * (np.arange(number + 1) / np.longdouble(number) + offset) / (1 + offset)
    ratio = (np.cos(angle[1:]) / np.cos(angle[:-1])) ** 2
    return np.cumsum(np.log(np.maximum(ratio, 1 - np.longdouble(max_beta)))) / 2


@pytest.mark.parametrize(("number", "offset", "max_beta"), [(1000, 0.008, 0.999), (40, 0.008, 0.999), (250, 0.02, 0.5)])
def test_iddpm_table_against_its_formula(x64, number, offset, max_beta):
    """It is the continuous cosine up to the clipped levels."""
    table = sdes.DiscreteVP.iddpm(number, offset, max_beta).log_alphas
    close(table, np.asarray(exact_iddpm(number, offset, max_beta), np.float64))
    t = np.arange(1, number + 1)[:30] / number
    close(sdes.Cosine(offset=offset).log_alpha(jnp.asarray(t)), table[:30], rtol=1e-10)


def test_iddpm_noise_levels_of_edm(x64):
    """EDM's u_j, j = N − i, is σ/α at level i. Its float32 recurrence is off by 5e-4; ours is the formula's."""
    peer, sde = load("edm"), sdes.DiscreteVP.iddpm()
    ours = np.asarray(jnp.exp(-0.5 * sde.log_snr(levels(1000))))
    theirs = peer["iDDPM_u"][:-1][::-1]
    exact = np.asarray(np.sqrt(np.expm1(-2 * exact_iddpm(1000, 0.008, 0.999))), np.float64)
    close(ours, exact, rtol=1e-11)
    assert 1e-4 < np.max(np.abs(theirs / exact - 1)) < 6e-4
    close(sdes.Cosine(offset=0.008).alpha(1 - jnp.asarray(peer["iDDPM_alpha_bar_j"]) / 1000) ** 2, cosine_squared(peer))


def cosine_squared(peer):
    """ᾱ normalised to 1 at the data; the peer's is sin² without the factor, which its ratios do not need."""
    return peer["iDDPM_alpha_bar"] / np.cos(0.5 * np.pi * 0.008 / 1.008) ** 2


# google/hackable_diffusion, float64

SCHEDULES = {
    "rf": sdes.Flow(),
    "cosine": sdes.Cosine(),
    "linear": sdes.VP(),
    "geometric": sdes.VE(),
    "inverse_cosine": sdes.LogSNR(lambda t: jnp.log(jnp.arccos(2 * t - 1)) - jnp.log(jnp.arccos(1 - 2 * t))),
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(
    ("method", "key"),
    [("alpha", "alpha"), ("sigma", "sigma"), ("log_snr", "logsnr"), ("drift", "f"), ("diffusion", "g")],
)
def test_schedules_of_hackable_diffusion(x64, name, method, key):
    peer = load("hackable_diffusion")
    close(getattr(SCHEDULES[name], method)(jnp.asarray(peer["t"])), peer[f"{name}_{key}"])


# azula, float64; its schedules stop short of α = 0 and σ = 0 (alpha_min = sigma_min = 1e-3)


def test_schedules_of_azula(x64):
    peer = load("azula")
    t = jnp.asarray(peer["t"])
    close(sdes.VE().sigma(t), peer["ve_sigma"])
    vp = sdes.VP(beta_min=0.0, beta_max=float(-4 * np.log(1e-3)))
    close(vp.alpha(t), peer["vp_alpha"])
    close(vp.sigma(t) ** 2 + 1e-6, peer["vp_sigma"] ** 2)
    cosine, stretch = sdes.Cosine(), float(np.arccos(1e-3) / (np.pi / 2))
    close(cosine.alpha(stretch * t), peer["cosine_alpha"])
    close(cosine.sigma(stretch * t) ** 2 + 1e-6, peer["cosine_sigma"] ** 2)
    close(sdes.Flow().alpha((1 - 1e-3) * t), peer["rectified_alpha"])
    close(sdes.Flow().sigma((1 - 1e-3) * t) + 1e-3, peer["rectified_sigma"])
    close((1 - 1e-3) * sdes.Decay().alpha(t) + 1e-3, peer["decay_alpha"])
    close((1 - 1e-3) * sdes.Decay().sigma(t) + 1e-3, peer["decay_sigma"])


# LuChengTHU/dpm-solver, float64


def test_linear_schedule_of_dpm_solver(x64):
    peer, sde = load("dpm_solver"), sdes.VP()
    t = jnp.asarray(peer["linear_t"])
    close(sde.log_alpha(t), peer["linear_log_alpha"])
    close(sde.sigma(t), peer["linear_std"])
    close(0.5 * sde.log_snr(t), peer["linear_lambda"], rtol=1e-11)  # log(1 − exp) cancels in the peer
    close(sde.time_of_log_snr(2 * jnp.asarray(peer["lam"])), peer["linear_inverse_lambda"])


@pytest.mark.parametrize("kind", ["lin", "cos"])
def test_discrete_schedules_of_dpm_solver(x64, kind):
    """Between the levels too. Below the first one the peer extrapolates; ours goes to α(0) = 1.

    The peer cuts the cosine's table where λ/2 < −5.1, which leaves 996 levels.
    """
    peer = load("dpm_solver")
    betas = np.linspace(1e-4, 0.02, 1000) if kind == "lin" else peer["betas_cos"]
    number = int(peer[f"disc_{kind}_total_N_after_clip"])
    sde = sdes.DiscreteVP.from_betas(betas[:number])
    t = jnp.asarray(peer[f"disc_{kind}_t"])
    from_first = np.asarray(t) * number > 1 - 1e-9
    assert np.sum(~from_first) == (kind == "cos")
    value = sde.log_alpha(t)
    close(value[from_first], peer[f"disc_{kind}_log_alpha"][from_first])
    close(value[~from_first], 0.5 * np.log1p(-betas[0]) * number * np.asarray(t)[~from_first])
    close(sde.sigma(t)[from_first], peer[f"disc_{kind}_std"][from_first])
    close(0.5 * sde.log_snr(t)[from_first], peer[f"disc_{kind}_lambda"][from_first], rtol=1e-10)
    close(sde.time_of_log_snr(2 * jnp.asarray(peer["lam"])), peer[f"disc_{kind}_inverse_lambda"])
    if kind == "cos":
        close(sdes.DiscreteVP.iddpm().log_alphas, 0.5 * np.cumsum(np.log1p(-betas)), rtol=1e-11)


# diffusers, float32

LINEAR = np.linspace(1e-4, 0.02, 1000)
TABLES = {
    "linear": LINEAR,
    "scaled_linear": np.linspace(1e-2, np.sqrt(0.02), 1000) ** 2,
    "squaredcos_cap_v2": 1 - np.exp(2 * np.diff(sdes.DiscreteVP.iddpm().log_alphas, prepend=0.0)),
    "sigmoid": 1e-4 + (0.02 - 1e-4) / (1 + np.exp(-np.linspace(-6, 6, 1000))),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_diffusers(x64, name):
    """Theirs are float32 products: 1e-6, but 1.4e-5 at the cosine's last level, where 1 − β = 0.001 is rounded."""
    theirs = load("diffusers")[f"{name}_zsnr0_alphas_cumprod"]
    sde = sdes.DiscreteVP.from_betas(TABLES[name])
    ours = sde.alpha(levels(1000)) ** 2
    close(ours, np.cumprod(1 - TABLES[name]), rtol=1e-11, atol=0)
    close(ours, theirs, rtol=1.5e-5 if name == "squaredcos_cap_v2" else 1e-6, atol=0)


@pytest.mark.parametrize("name", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_tables_with_zero_terminal_snr(x64, name):
    table = zero_terminal(TABLES[name])
    assert table[-1] == 0
    sde = sdes.DiscreteVP.from_alphas_cumprod(table)
    ours = sde.alpha(levels(1000)) ** 2
    close(ours, table)
    close(sde.sigma(levels(1000)) ** 2, 1 - table)
    close(ours, load("diffusers")[f"{name}_zsnr1_alphas_cumprod"], rtol=2e-5, atol=1e-6)
    # α is linear in the last interval.
    close(sde.alpha(0.9995), 0.5 * np.sqrt(table[-2]))


# crowsonkb/k-diffusion


def test_discrete_noise_levels_of_k_diffusion(x64):
    """At whole t theirs is our level t + 1. Between levels they interpolate log σ/α; a λ given so agrees there too."""
    peer, sde = load("k_diffusion"), sdes.DiscreteVP.ddpm()
    query = jnp.asarray(peer["disc_query_t"])
    ours = jnp.exp(-0.5 * sde.log_snr((query + 1) / 1000))
    close(ours, peer["disc_t_to_sigma"], rtol=1e-4)
    knots = jnp.asarray(sde.log_snr(levels(1000)))
    same = sdes.LogSNR(lambda t: jnp.interp(1000 * t - 1, jnp.arange(1000.0), knots))
    close(jnp.exp(-0.5 * same.log_snr((query + 1) / 1000)), peer["disc_t_to_sigma"], rtol=5e-7)  # its t is float32
    log_snr = -2 * jnp.log(jnp.asarray(peer["disc_query_sigma"]))
    close(1000 * same.time_of_log_snr(log_snr) - 1, peer["disc_sigma_to_t"], rtol=1e-9)
    quantized = np.asarray(sde.log_snr(jnp.asarray((peer["disc_sigma_to_t_quantized"] + 1) / 1000)))
    assert np.all(np.abs(quantized - np.asarray(log_snr)) < 0.2)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_ancestral_steps_of_k_diffusion(x64, eta):
    """σ_up = η σ_s σ_{t|s}/σ_t with σ_{t|s} of the transition."""
    peer, sde = load("k_diffusion"), sdes.EDM(sigma_max=200.0)
    t, s = jnp.asarray(peer["anc_from"]), jnp.asarray(peer["anc_to"])
    up = jnp.minimum(eta * s * sde.transition(s, t).std / t, s)
    close(up, peer[f"anc_up_eta{eta}"])
    close(jnp.sqrt(s**2 - up**2), peer[f"anc_down_eta{eta}"])
