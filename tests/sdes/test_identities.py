"""Identities that hold for every SDE, for any α and σ."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sdes
from score_sde.denoising.dynamics import velocity
from score_sde.denoising.estimate import Estimate
from tests.sdes.peers import ALL, DRAWS, LOSES_SIGNAL, METHODS, evaluate, facts, times

every_sde = pytest.mark.parametrize("name", ALL)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def close(value, reference, rtol=1e-12, atol=0.0):
    np.testing.assert_allclose(np.asarray(value), np.asarray(reference), rtol=rtol, atol=atol)


def linear_beta(t, low, high):
    """(β, ∫β) in extended precision."""
    t = np.asarray(t, np.longdouble)
    return low + t * (high - low), low * t + (high - low) * t**2 / 2


def vp_closed(t, low, high):
    beta, integral = linear_beta(t, low, high)
    return np.exp(-integral / 2), np.sqrt(-np.expm1(-integral)), -beta / 2, np.sqrt(beta)


def sub_vp_closed(t, low, high):
    beta, integral = linear_beta(t, low, high)
    diffusion = np.sqrt(-beta * np.expm1(-2 * integral))
    return np.exp(-integral / 2), -np.expm1(-integral), -beta / 2, diffusion


def ve_closed(t, low, high):
    sigma = low * (high / low) ** np.asarray(t, np.longdouble)
    return np.ones_like(sigma), sigma, np.zeros_like(sigma), sigma * np.sqrt(2 * np.log(high / low))


def edm_closed(t):
    t = np.asarray(t, np.longdouble)
    return np.ones_like(t), t, np.zeros_like(t), np.sqrt(2 * t)


def cosine_closed(t, offset):
    quarter = np.longdouble(np.pi) / 2 / (1 + np.longdouble(offset))
    angle, start = quarter * (np.asarray(t, np.longdouble) + offset), quarter * offset
    alpha, drift = np.cos(angle) / np.cos(start), -quarter * np.tan(angle)
    return alpha, np.sqrt(1 - alpha**2), drift, np.sqrt(-2 * drift)


def flow_closed(t):
    t = np.asarray(t, np.longdouble)
    return 1 - t, t, -1 / (1 - t), np.sqrt(2 * t / (1 - t))


def decay_closed(t, gamma):
    t, gamma = np.asarray(t, np.longdouble), np.longdouble(gamma)
    alpha, rate = (gamma**t - gamma) / (1 - gamma), gamma**t * np.log(gamma) / (1 - gamma)
    return alpha, 1 - alpha, rate / alpha, np.sqrt(-2 * rate * (1 - alpha) / alpha)


def cubic_closed(t):
    t = np.asarray(t, np.longdouble)
    log_snr, rate = 10 - 18 * t - 2 * t**3, -18 - 6 * t**2
    alpha, sigma = 1 / np.sqrt(1 + np.exp(-log_snr)), 1 / np.sqrt(1 + np.exp(log_snr))
    return alpha, sigma, rate * sigma**2 / 2, np.sqrt(-rate) * sigma


CLOSED = {
    "vp": (sdes.VP(), lambda t: vp_closed(t, 0.1, 20.0)),
    "vp_other": (sdes.VP(beta_min=0.0, beta_max=31.0), lambda t: vp_closed(t, 0.0, 31.0)),
    "vp_constant": (sdes.VP(beta_min=8.0, beta_max=8.0), lambda t: vp_closed(t, 8.0, 8.0)),
    "sub_vp": (sdes.SubVP(), lambda t: sub_vp_closed(t, 0.1, 20.0)),
    "sub_vp_other": (sdes.SubVP(beta_min=0.3, beta_max=7.0), lambda t: sub_vp_closed(t, 0.3, 7.0)),
    "ve": (sdes.VE(), lambda t: ve_closed(t, 0.01, 50.0)),
    "ve_other": (sdes.VE(sigma_min=0.002, sigma_max=380.0), lambda t: ve_closed(t, 0.002, 380.0)),
    "edm": (sdes.EDM(), edm_closed),
    "cosine": (sdes.Cosine(), lambda t: cosine_closed(t, 0.0)),
    "cosine_offset": (sdes.Cosine(offset=0.008), lambda t: cosine_closed(t, 0.008)),
    "flow": (sdes.Flow(), flow_closed),
    "decay": (sdes.Decay(), lambda t: decay_closed(t, 0.1)),
    "decay_other": (sdes.Decay(gamma=0.6), lambda t: decay_closed(t, 0.6)),
    "log_snr": (sdes.LogSNR(lambda t: 10 - 18 * t - 2 * t**3), cubic_closed),
}


@pytest.mark.parametrize("name", CLOSED)
def test_alpha_sigma_drift_and_diffusion_are_the_papers(x64, name):
    sde, closed = CLOSED[name]
    t = np.append(np.geomspace(1e-4, 0.97, 25), 0.999)
    computed = (getattr(sde, f)(jnp.asarray(t)) for f in ("alpha", "sigma", "drift", "diffusion"))
    # The cosine's reference is itself 1 − α², in 64 bits of mantissa.
    rtol = 1e-10 if name.startswith("cosine") else 3e-14
    for value, reference in zip(computed, closed(t), strict=True):
        close(value, np.asarray(reference, np.float64), rtol=rtol)


@every_sde
def test_squared_diffusion_is_the_growth_of_the_variance(name):
    _, now = facts(name)
    close(now["diffusion"] ** 2, now["growth"] - 2 * now["drift"] * now["sigma"] ** 2, rtol=1e-9)


@every_sde
def test_a_short_transition_has_the_drift_and_diffusion_as_rates(x64, name):
    """(scale − 1)/h → f and std²/h → g², independently of any derivative."""
    sde = ALL[name]
    t = jnp.asarray(np.linspace(0.0123456, 0.95123456, 30) * sde.t_max)  # off the knots of a table
    h = 1e-6 * t
    kernel = sde.transition(t - h, t + h)
    close((kernel.scale - 1) / (2 * h), sde.drift(t), rtol=1e-4, atol=1e-8)
    close(kernel.std**2 / (2 * h), sde.diffusion(t) ** 2, rtol=1e-4)


@every_sde
def test_alpha_starts_at_one_and_the_log_snr_falls(name):
    _, now = facts(name)
    start = 1 / (1 + np.exp(-10.0)) ** 0.5 if name == "log_snr" else 1.0  # made up to start at λ = 10
    close(now["zero"].scale, start)
    close(now["log_snr"], 2 * np.log(now["alpha"] / now["sigma"]), rtol=1e-9, atol=1e-9)
    assert np.all(np.diff(now["log_snr"]) < 0)
    grid = jnp.linspace(1e-3, 1, 1001) * ALL[name].t_max
    assert np.all(np.diff(np.asarray(ALL[name].log_snr(grid))) < 0)


@every_sde
def test_transitions_compose(name):
    """p(x_u | x_s) is p(x_u | x_t) after p(x_t | x_s), also to the very end, where the signal may be gone."""
    _, now = facts(name)
    first, second, whole = now["st"], now["tu"], now["su"]
    close(whole.scale, second.scale * first.scale, rtol=1e-11)
    close(whole.std**2, second.scale**2 * first.std**2 + second.std**2, rtol=1e-9)
    last = now["to_end"]
    close(now["end"].scale, last.scale * now["alpha"], rtol=1e-11, atol=1e-300)
    close(now["end"].std ** 2, last.scale**2 * now["sigma"] ** 2 + last.std**2, rtol=1e-11)


@every_sde
def test_the_transition_from_zero_is_the_marginal(name):
    _, now = facts(name)
    kernel, marginal, start = now["from_zero"], now["marginal"], now["zero"]
    close(start.std, {"ve": 0.01, "log_snr": 1 / (1 + np.exp(10.0)) ** 0.5}.get(name, 0.0))
    close(kernel.std**2, marginal.std**2 - kernel.scale**2 * start.std**2, rtol=1e-8)
    close(kernel.scale, marginal.scale / start.scale)
    close(marginal.scale, now["alpha"])
    close(marginal.std, now["sigma"])


@every_sde
@pytest.mark.parametrize("wide", [True, False])
def test_time_of_log_snr_inverts_log_snr(name, wide):
    """To rounding in λ: |δt| <= (a few units in the last place of λ) / |λ'(t)|."""
    t, now = facts(name, wide)
    eps = np.finfo(np.float64 if wide else np.float32).eps
    bound = 8 * eps * (np.maximum(np.abs(now["log_snr"]), 1) / np.abs(now["log_snr_rate"]) + t)
    assert np.all(np.abs(now["time"] - t) <= bound)


@pytest.mark.parametrize("name", ["sub_vp", "cosine", "log_snr", "ddpm", "iddpm", "ddpm_zero_snr"])
def test_bisection_goes_to_the_nearest_end_and_takes_any_shape(name):
    sde = ALL[name]
    end = sde.log_snr(jnp.asarray(sde.t_max))
    beyond = sde.time_of_log_snr(jnp.asarray([jnp.inf, 500.0, -500.0, -jnp.inf]))
    np.testing.assert_array_equal(np.asarray(beyond) < 1e-18, [True, True, False, False])
    np.testing.assert_array_equal(np.asarray(beyond)[2:], sde.t_max)
    assert sde.time_of_log_snr(end if jnp.isfinite(end) else -1e30) == sde.t_max
    one = sde.time_of_log_snr(0.5)
    assert one.shape == ()
    np.testing.assert_array_equal(np.asarray(sde.time_of_log_snr(jnp.full((3,), 0.5))), np.full(3, one))


@pytest.mark.parametrize("name", ["vp", "vp_constant", "ve", "edm", "flow"])
def test_closed_inverse_equals_bisection(x64, name):
    sde = ALL[name]
    log_snr = sde.log_snr(jnp.linspace(1e-3, 1, 30) * sde.t_max)
    close(sde.time_of_log_snr(log_snr), sdes.SDE.time_of_log_snr(sde, log_snr), rtol=1e-10)


def test_the_inverse_is_differentiable(x64):
    sde, log_snr = sdes.SubVP(), jnp.asarray(1.3)
    slope = jax.grad(lambda t: sde.log_snr(t))(sde.time_of_log_snr(log_snr))
    close(jax.grad(sde.time_of_log_snr)(log_snr), 1 / slope)
    derivative = jax.grad(lambda sde: sde.time_of_log_snr(log_snr))(sde).beta_max
    step = 1e-5
    ends = [sdes.SubVP(beta_max=20.0 + d).time_of_log_snr(log_snr) for d in (-step, step)]
    close(derivative, (ends[1] - ends[0]) / (2 * step), rtol=1e-7)


@pytest.mark.few(6)
@every_sde
def test_jit_vmap_and_order_change_nothing(name):
    sde, t = ALL[name], jnp.asarray(times(name))
    draws = jnp.asarray(DRAWS, jnp.float32)
    values = evaluate(sde, t, draws)
    order = np.random.default_rng(0).permutation(len(t))
    shuffled = evaluate(sde, t[order], draws[:, order])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[order]), shuffled, values)
    for method in METHODS:
        eager = getattr(sde, method)(t)
        close(eager, values[method], rtol=3e-6, atol=2e-6)  # another program may round differently
        np.testing.assert_array_equal(jax.vmap(getattr(sde, method))(t), eager)
    close(sde.sigma(float(t[3])), sde.sigma(t)[3], rtol=1e-6)


def test_new_values_of_fields_compile_nothing_again():
    traces = []

    @jax.jit
    def everything(sde, t):
        traces.append(type(sde).__name__)
        return sde.diffusion(t), sde.transition(0.5 * t, t), sde.time_of_log_snr(sde.log_snr(t))

    t = jnp.asarray(0.3)
    tables = [np.linspace(1e-4, last, 50) for last in (0.02, 0.05)]
    pairs = (
        (sdes.VP(), sdes.VP(beta_min=0.2, beta_max=9.0)),
        (sdes.VE(), sdes.VE(sigma_max=300.0)),
        (sdes.Cosine(), sdes.Cosine(offset=0.1)),
        (sdes.EDM(), sdes.EDM(sigma_max=10.0)),
        tuple(sdes.DiscreteVP.from_betas(b) for b in tables),
    )
    for first, second in pairs:
        outputs = [everything(sde, t) for sde in (first, second)]
        if not isinstance(first, sdes.EDM):
            assert outputs[0][0] != outputs[1][0]
    assert traces == [type(first).__name__ for first, _ in pairs]


@every_sde
def test_prior(name):
    sde = ALL[name]
    std = float(sde.prior_std())
    paper = {"ve": 50.0, "edm": 80.0}.get(name, 1.0)
    # λ(1) = −10 leaves σ = 0.99998 in the made-up schedule.
    assert std == pytest.approx(paper, rel=3e-5 if name == "log_snr" else 1e-6)
    assert abs(float(sde.sigma(sde.t_max)) / std - 1) < (3e-3 if name in ("vp_gentle", "vp_constant") else 1e-4)
    x = sde.sample_prior(jax.random.key(1), (20_000, 3))
    assert abs(float(jnp.std(x)) / std - 1) < 5 / np.sqrt(2 * x.size)
    assert abs(float(jnp.mean(x))) < 5 * std / np.sqrt(x.size)
    x = x[:5].reshape(5, 1, 3)
    expected = np.sum(-0.5 * (np.asarray(x, np.float64) / std) ** 2 - np.log(std * np.sqrt(2 * np.pi)), axis=(1, 2))
    close(sde.prior_log_prob(x), expected, rtol=1e-5)


@every_sde
def test_perturb_has_the_moments_of_the_marginal(name):
    sde, t = ALL[name], jnp.asarray([1e-3, 0.3, 0.9]) * ALL[name].t_max
    number = 3 * 4000
    times_of = jnp.tile(t, 4000)
    x0 = jnp.full((number, 2, 3), 0.7)
    x, eps = sde.perturb(jax.random.key(3), x0, times_of)
    alpha, sigma = (np.asarray(c(t)) for c in (sde.alpha, sde.sigma))
    x, eps = (np.asarray(a).reshape(4000, 3, 6).transpose(1, 0, 2).reshape(3, -1) for a in (x, eps))
    close(x, alpha[:, None] * 0.7 + sigma[:, None] * eps, rtol=1e-5, atol=1e-6)
    assert np.all(np.abs(x.mean(1) - 0.7 * alpha) < 5 * sigma / np.sqrt(x.shape[1]))
    assert np.all(np.abs(x.std(1) / sigma - 1) < 5 / np.sqrt(2 * x.shape[1]) + 1e-3 * alpha / sigma * 1e-4)


@every_sde
def test_a_scalar_time_serves_the_whole_batch(name):
    sde, key = ALL[name], jax.random.key(0)
    x0 = jax.random.normal(jax.random.key(5), (4, 2))
    t = 0.4 * sde.t_max
    one, many = sde.perturb(key, x0, t), sde.perturb(key, x0, jnp.full(4, t))
    close(one[0], many[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", LOSES_SIGNAL)
def test_the_velocity_is_finite_where_the_signal_is_gone(name):
    @jax.jit
    def at_the_end(sde):
        t = jnp.full((1,), sde.t_max)
        flow = velocity(sde, Estimate(jnp.ones((1, 2)), 2 * jnp.ones((1, 2))), t)
        return sde.alpha(t), sde.log_snr(t), sde.drift(t), flow, sde.transition(jnp.asarray([0.5]), t)

    alpha, log_snr, drift, flow, kernel = at_the_end(ALL[name])
    assert alpha == 0
    assert log_snr == -jnp.inf
    assert not np.isfinite(drift[0])
    assert np.all(np.isfinite(flow))
    np.testing.assert_allclose(np.asarray(kernel), [[0.0], [1.0]], atol=1e-6)
