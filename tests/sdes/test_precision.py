"""Digits kept in float32, against the same formulas in float64 at the same (float32) times."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sdes
from tests.sdes.peers import ALL, LOSES_SIGNAL, both_precisions, load, relative, times

# Largest relative errors, from t = 1e-5 on; measured: 1.7e-6, 7e-7, 8e-7, 7e-7.
BOUNDS = {"alpha": 3e-6, "sigma": 1.5e-6, "drift": 1.5e-6, "diffusion": 1.5e-6}


def within_levels(name):
    """The times, those of a table moved off its knots, where f and g jump."""
    t = times(name)
    if not isinstance(ALL[name], sdes.DiscreteVP):
        return t
    levels = len(ALL[name].log_alphas)
    return ((np.floor(t.astype(np.float64) * levels) + 0.375).clip(0, levels - 1.125) / levels).astype(np.float32)


@pytest.mark.few(28)
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("method", BOUNDS)
def test_float32_keeps_its_digits_down_to_1e_5(name, method):
    value, reference = both_precisions(getattr(ALL[name], method), within_levels(name))
    if not np.any(reference):  # f = 0
        assert not np.any(value)
        return
    bound = BOUNDS[method]
    if isinstance(ALL[name], sdes.DiscreteVP) and method != "sigma":
        # log α of a table is −5 with 0.01 from level to level, which float32 knows to 3e-5; iDDPM's last levels halve
        # α and more, so that α shows a rounding of N t.
        bound = {"alpha": 2e-4 if name == "iddpm" else bound}.get(method, 5e-5)
    assert relative(value, reference) < bound


@pytest.mark.parametrize("name", ALL)
def test_float32_transitions_of_a_thousand_steps(name):
    """std to 6e-5 (what float32 log α and σ leave of their difference over a step) and scale to 1e-6, down to 1e-5."""
    last = 0.999 if name in LOSES_SIGNAL else 1.0
    grid = (np.linspace(1e-5, last, 1001) * float(ALL[name].t_max)).astype(np.float32)
    (scale, scale_wide), (std, std_wide) = (
        both_precisions(lambda s, t, i=i: ALL[name].transition(s, t)[i], grid[:-1], grid[1:]) for i in (0, 1)
    )
    steep = name in ("iddpm", "ddpm_zero_snr")  # their last levels show a rounding of N t
    assert relative(scale, scale_wide) < (6e-5 if steep else 1.5e-6)
    # The difference of two logarithms of the SNR would leave EDM 2e-4.
    assert relative(std, std_wide) < (5e-7 if name == "edm" else 6e-5)


@pytest.mark.parametrize(("sde", "root"), [(sdes.VP(), 2), (sdes.SubVP(), 1)])
def test_one_minus_exp_loses_what_expm1_keeps(sde, root):
    """σ at t = 1e-5 in float32: the 2021 code's 1 − exp(2 log α) is off by 0.6 % and 1.2 % in JAX, whose exp rounds up
    here; PyTorch's rounds down, which makes 2.4 % (VP, EDM's number) and 4.7 % (sub-VP). With expm1 it is 2e-7."""
    jax_peer, torch_peer = load("score_sde_jax"), load("edm")["VP_sigma_min_max"][0]
    t = jnp.float32(1e-5)
    integral = 0.1 * np.float64(t) + 9.95 * np.float64(t) ** 2
    exact = (-np.expm1(-integral)) ** (1 / root)
    theirs = jax_peer["vp_marginal_prob_1" if root == 2 else "subvp_marginal_prob_1"][0]
    assert jax_peer["t"][0] == t
    assert theirs / exact - 1 == pytest.approx(0.0122 / root, rel=0.02)
    assert (torch_peer / np.sqrt(np.expm1(integral))) ** (2 / root) - 1 == pytest.approx(-0.047 / root, rel=0.02)
    assert abs(sde.sigma(t) / exact - 1) < 2e-7


@pytest.mark.parametrize("beta_min", [0.0, 0.1])
def test_vp_finds_the_time_of_any_log_snr(beta_min):
    """In float32 from λ = −20 to 170, past λ = 87, where log(1 + e^−λ) is 0; λ = ∞ is t = 0."""
    sde = sdes.VP(beta_min=beta_min)
    log_snr = np.asarray([-20.0, -1.0, 0.0, 8.0, 30.0, 39.9, 40.1, 60.0, 86.0, 90.0, 120.0, 170.0])
    integral = np.logaddexp(0, -log_snr.astype(np.longdouble))
    exact = 2 * integral / (np.sqrt(beta_min**2 + 2 * (20.0 - beta_min) * integral) + beta_min)
    found, wide = both_precisions(sde.time_of_log_snr, log_snr.astype(np.float32))
    exact = np.where(exact < 1e-37, 0, exact).astype(np.float64)
    np.testing.assert_allclose(found, exact, rtol=1.5e-5, atol=1e-37)  # λ is rounded to 1e-5 at 170
    np.testing.assert_allclose(wide, exact, rtol=1e-5, atol=1e-37)
    assert sde.time_of_log_snr(jnp.inf) == 0
    slope = jax.vmap(jax.grad(sde.time_of_log_snr))(jnp.asarray(log_snr[:10], jnp.float32))
    assert np.all(np.isfinite(slope) & (slope <= 0)) and np.all(slope[:9] < 0)


def test_an_alpha_near_one_keeps_its_log_in_a_table():
    """σ at the first level of a fine table: a float32 ᾱ would make it 0.7 % wrong; the table holds log α."""
    sigma = sdes.DiscreteVP.from_betas(np.linspace(1e-6, 0.02, 1000)).sigma(jnp.float32(1e-3))
    assert abs(sigma / 1e-3 - 1) < 3e-7
    assert abs(np.sqrt(1 - np.float64(np.float32(1 - 1e-6))) / 1e-3 - 1) > 0.006
