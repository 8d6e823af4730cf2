"""Decoding against targets on every SDE, the digits it keeps, and the published preconditionings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

from score_sde import sdes
from score_sde.denoising import parameterizations as p
from score_sde.internal.pytree import pytree
from tests import conformance
from tests.sdes.peers import ALL, DRAWS, facts, load, relative

PARAMETERIZATIONS = {**conformance.PARAMETERIZATIONS, "scaled_score": p.ScaledScore()}


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def close(value, reference, rtol=1e-12, atol=1e-12):
    np.testing.assert_allclose(np.asarray(value), np.asarray(reference), rtol=rtol, atol=atol)


@pytree
class At(sdes.SDE):
    """An SDE's α and σ at its test times, so that a parameterization compiles once for all SDEs."""

    alphas: Float[Array, " b"]
    sigmas: Float[Array, " b"]

    def log_alpha(self, t):
        return jnp.log(self.alphas)

    def alpha(self, t):
        return self.alphas

    def sigma(self, t):
        return self.sigmas


@jax.jit
def decoded(parameterization, sde, x0, eps):
    """(x_t, the estimate from the target at x_t)."""
    x, t = sde.alphas[:, None] * x0 + sde.sigmas[:, None] * eps, jnp.zeros_like(sde.alphas)
    return x, parameterization.decode(parameterization.target(x0, eps, t, sde), x, t, sde)


def at(name, wide, dtype):
    """(x0, ε, the SDE's α and σ) at each of its times, from 1e-5 to t_max."""
    now = facts(name, wide)[1]
    x0, eps = (jnp.asarray(a, dtype) for a in DRAWS)
    return 0.5 * x0, eps, At(jnp.asarray(now["alpha"], dtype), jnp.asarray(now["sigma"], dtype))


@pytest.mark.few(30)
@pytest.mark.parametrize("name", PARAMETERIZATIONS)
@pytest.mark.parametrize("sde", ALL)
def test_decode_inverts_target(x64, sde, name):
    """In float64, from t = 1e-5 to t_max (0.9999 t_max where the signal is gone there), and α x̂0 + σ ε̂ = x_t."""
    x0, eps, level = at(sde, True, jnp.float64)
    x, estimate = decoded(PARAMETERIZATIONS[name], level, x0, eps)
    alpha, sigma = level.alphas[:, None], level.sigmas[:, None]
    # The half that is not the output loses up to σ/α or α/σ, 1e5, to rounding.
    close(estimate.x0, x0, rtol=0, atol=1e-15 * np.max(1 + sigma / alpha) + 1e-14)
    close(estimate.eps, eps, rtol=0, atol=1e-15 * np.max(1 + alpha / sigma) + 1e-14)
    close(alpha * estimate.x0 + sigma * estimate.eps, x, rtol=1e-12, atol=1e-12)


def float32_errors(parameterization, sde):
    """Errors of (x̂0, ε̂) at every time when the float32 output is known to one rounding, and (α, σ) there."""
    x0, eps, level = at(sde, False, jnp.float32)
    _, estimate = decoded(parameterization, level, x0, eps)
    errors = [np.max(np.abs(np.asarray(a - b)), axis=1) for a, b in zip(estimate, (x0, eps), strict=True)]
    return *errors, np.asarray(level.alphas), np.asarray(level.sigmas)


@pytest.mark.parametrize("sde", ALL)
def test_balanced_parameterizations_keep_float32_digits_at_both_ends(sde):
    """v and EDM decode both of the pair within 2e-6 at every t from 1e-5 to t_max, for every SDE."""
    for name in ("v", "edm", "edm_unit_data"):
        x0_error, eps_error, alpha, sigma = float32_errors(PARAMETERIZATIONS[name], sde)
        # x_t itself is rounded at the size of its larger part.
        size = 2e-6 * (alpha + sigma)
        norm = np.hypot(alpha, sigma)
        assert np.all(x0_error <= size / norm + 1e-7), name
        assert np.all(eps_error <= size / norm + 1e-7), name


@pytest.mark.few(6)
@pytest.mark.parametrize("sde", ALL)
def test_one_sided_parameterizations_lose_digits_at_one_end_only(sde):
    """ε̂ of Epsilon and x̂0 of X0 are exact; the other half is off by a rounding times σ/α or α/σ, as it must be."""
    x0_error, eps_error, alpha, sigma = float32_errors(PARAMETERIZATIONS["eps"], sde)
    assert np.all(eps_error == 0)
    assert np.all(x0_error < 2e-6 * (1 + sigma / alpha))
    x0_error, eps_error, alpha, sigma = float32_errors(PARAMETERIZATIONS["x0"], sde)
    assert np.all(x0_error == 0)
    assert np.all(eps_error < 2e-6 * (1 + alpha / sigma))


def test_why_the_pair_is_decoded_directly():
    """VP at t = 1e-5, float32: ε̂ through x̂0 of the same network output is 100 times worse than ε̂ itself."""
    sde, (x0, eps) = sdes.VP(), (jnp.asarray(a, jnp.float32) for a in DRAWS)
    level = At(jnp.full(48, sde.alpha(1e-5)), jnp.full(48, sde.sigma(1e-5)))
    x, estimate = decoded(p.Velocity(), level, x0, eps)
    through = (x - sde.alpha(1e-5) * estimate.x0) / sde.sigma(1e-5)
    assert np.max(np.abs(estimate.eps - eps)) < 5e-7
    assert np.max(np.abs(through - eps)) > 4e-5


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
def test_without_signal_it_is_decoded_where_it_can_be(name):
    """At α = 0, x_t = ε: v, EDM, flow velocity and x0 still give both; ε and the score cannot know x0."""
    x0, eps = (jnp.asarray(a, jnp.float32) for a in DRAWS)
    x, estimate = decoded(PARAMETERIZATIONS[name], At(jnp.zeros(48), jnp.ones(48)), x0, eps)
    close(estimate.eps, eps, rtol=1e-6)
    close(x, eps, rtol=1e-6)
    if name in ("eps", "score", "scaled_score"):
        assert not np.any(np.isfinite(estimate.x0))
    else:
        close(estimate.x0, x0, rtol=1e-5, atol=1e-6)


def test_targets_are_the_papers(x64):
    """Hand values at α = 0.8, σ = 0.6 (VP-like) and on Flow."""
    sde = sdes.LogSNR(lambda t: jnp.log(0.64 / 0.36) + 2 * (0.5 - t))
    t, x0, eps = jnp.asarray([0.5]), jnp.asarray([[2.0]]), jnp.asarray([[3.0]])
    expected = {
        "eps": 3.0,
        "x0": 2.0,
        "score": -5.0,
        "scaled_score": -3.0,
        "v": 0.8 * 3 - 0.6 * 2,
        "flow": 1.0,
        "edm": (0.6 * 2 / 0.5 - 0.8 * 0.5 * 3) / np.sqrt(0.16 + 0.36),
        "edm_unit_data": 0.6 * 2 - 0.8 * 3,
    }
    assert expected.keys() == PARAMETERIZATIONS.keys()
    for name, value in expected.items():
        close(PARAMETERIZATIONS[name].target(x0, eps, t, sde), [[value]])
    flow, t = sdes.Flow(), jnp.asarray([0.3])
    x, rate = jax.jvp(lambda t: flow.alpha(t)[:, None] * x0 + flow.sigma(t)[:, None] * eps, (t,), (jnp.ones(1),))
    close(p.FlowVelocity().target(x0, eps, t, flow), rate)
    assert p.FlowVelocity().decode(rate, x, t, flow).x0 == pytest.approx(2.0)


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
@pytest.mark.parametrize("sde", ["vp", "edm", "flow", "sub_vp"])
def test_unit_targets_and_inputs(x64, sde, name):
    """With data of std σ_data: c_in x_t has unit variance, and so has the target of EDM."""
    parameterization, sde = PARAMETERIZATIONS[name], ALL[sde]
    t = jnp.asarray([0.01, 0.3, 0.8]) * sde.t_max
    c_in, _ = parameterization.inputs(sde, t)
    if name == "scaled_score":
        close(c_in, 1.0)
        return
    variance = (sde.alpha(t) * parameterization.sigma_data) ** 2 + sde.sigma(t) ** 2
    close(c_in**2 * variance, 1.0)
    if name.startswith("edm"):
        one, none = jnp.ones((3, 1)), jnp.zeros((3, 1))
        of_x0, of_eps = (parameterization.target(*ends, t, sde)[:, 0] for ends in ((one, none), (none, one)))
        close((of_x0 * parameterization.sigma_data) ** 2 + of_eps**2, 1.0)


# Karras et al., arXiv 2206.00364, Table 1, against NVlabs/edm in float32


def coefficients(parameterization, sde, t):
    """(c_skip, c_out, c_in, c_noise) in EDM's variables x̄ = x/α: D(x̄; σ̄) = c_skip x̄ + c_out F(c_in x̄; c_noise)."""
    alpha, one, none = sde.alpha(t), jnp.ones((len(t), 1)), jnp.zeros((len(t), 1))
    c_in, c_noise = parameterization.inputs(sde, t)
    c_skip = parameterization.decode(none, alpha[:, None] * one, t, sde).x0[:, 0]
    c_out = parameterization.decode(one, none, t, sde).x0[:, 0]
    return c_skip, c_out, c_in * alpha, c_noise


COLUMNS = {
    "EDM": (p.EDMPreconditioning(), sdes.EDM(sigma_max=1000.0)),
    "VP": (p.Epsilon(), sdes.VP()),
    "VE": (p.ScaledScore(noise_label=p.LogSigmaLabel(scale=1.0, gain=0.5)), sdes.VE(sigma_min=1e-4, sigma_max=1e4)),
    "iDDPM": (p.Epsilon(noise_label=p.TimeLabel(scale=1000.0, offset=-1.0)), sdes.DiscreteVP.iddpm()),
}


@pytest.mark.parametrize("column", COLUMNS)
def test_preconditionings_of_edm(x64, column):
    peer, (parameterization, sde) = load("edm"), COLUMNS[column]
    t = sde.time_of_log_snr(-2 * jnp.log(jnp.asarray(peer["sigma"])))
    names = ("c_skip", "c_out", "c_in", "c_noise")
    ours = dict(zip(names, coefficients(parameterization, sde, t), strict=True))
    for name in names[: 4 if column in ("EDM", "VE") else 3]:
        close(ours[name], peer[f"{column}Precond_{name}"], rtol=1e-6, atol=1e-6 if name == "c_noise" else 1e-12)


def test_the_label_of_vp(x64):
    """999 t. EDM's float32 inverse of σ cancels: its label at σ = 0.002 is 1.3 % off; ours is right in float32 too."""
    peer, (parameterization, sde) = load("edm"), COLUMNS["VP"]
    exact = 999 * peer["VP_sigma_inv_of_sigma"]
    assert 0.01 < relative(peer["VPPrecond_c_noise"], exact) < 0.02
    for dtype, bound in ((jnp.float64, 1e-10), (jnp.float32, 1e-6)):
        log_snr = jnp.asarray(-2 * np.log(peer["sigma"]), dtype)
        label = parameterization.inputs(sde, sde.time_of_log_snr(log_snr))[1]
        assert relative(np.asarray(label, np.float64), exact) < bound


def test_the_label_of_iddpm(x64):
    """i − 1 at level i = N t, as EDM gives after rounding σ to its table, −1 for clean data."""
    peer, (parameterization, sde) = load("edm"), COLUMNS["iDDPM"]
    rounded = peer["iDDPMPrecond_round_sigma"].astype(np.float64)
    noisy = rounded > 0
    t = sde.time_of_log_snr(-2 * jnp.log(jnp.asarray(rounded[noisy])))
    label = parameterization.inputs(sde, t)[1]
    close(label, peer["iDDPMPrecond_c_noise"][noisy], atol=0.02, rtol=0)
    close(jnp.round(label), peer["iDDPMPrecond_c_noise"][noisy])
    assert parameterization.inputs(sde, 0.0)[1] == -1
    assert peer["iDDPMPrecond_c_noise"][~noisy][0] == -1


def test_v_scalings_of_k_diffusion(x64):
    """On the cosine schedule σ̄ = tan(πt/2): c_skip = 1/(σ̄² + 1), c_out = −σ̄/√(σ̄² + 1), c_in = 1/√(σ̄² + 1)."""
    peer, sde = load("k_diffusion"), sdes.Cosine()
    sigma = jnp.asarray(peer["disc_query_sigma"])
    t = sde.time_of_log_snr(-2 * jnp.log(sigma))
    parameterization = p.Velocity(noise_label=p.TimeLabel(scale=1.0))
    c_skip, c_out, c_in, c_noise = coefficients(parameterization, sde, t)
    for ours, name in ((c_skip, "v_c_skip"), (c_out, "v_c_out"), (c_in, "v_c_in"), (c_noise, "v_sigma_to_t")):
        close(ours, peer[name], rtol=1e-11)


def test_edm_on_any_sde_is_the_same_denoiser(x64):
    """D = c_skip x̄ + c_out F with σ̄ = σ/α, also for σ_data other than the default."""
    sde, t, sigma_data = sdes.SubVP(), jnp.asarray([1e-3, 0.2, 0.6, 1.0]), 1.7
    level = sde.sigma(t) / sde.alpha(t)
    norm = jnp.sqrt(level**2 + sigma_data**2)
    expected = sigma_data**2 / norm**2, level * sigma_data / norm, 1 / norm, 0.25 * jnp.log(level)
    for ours, value in zip(coefficients(p.EDMPreconditioning(sigma_data=sigma_data), sde, t), expected, strict=True):
        close(ours, value)


# Labels


def test_time_label_is_relative_to_t_max():
    close(p.TimeLabel()(sdes.VP(), jnp.asarray([0.0, 1.0])), [0.0, 999.0])
    close(p.TimeLabel(scale=1.0)(sdes.EDM(sigma_max=80.0), jnp.asarray([20.0])), [0.25])
    close(
        p.TimeLabel(scale=1000.0, offset=-1.0)(sdes.DiscreteVP.ddpm(), jnp.asarray([1e-3, 1.0])), [0.0, 999.0], 0, 1e-4
    )
    traced = jax.jit(lambda label, sde, t: label(sde, t))(p.TimeLabel(scale=1.0), sdes.EDM(), jnp.asarray([20.0]))
    close(traced, [0.25])


def test_log_sigma_label_is_finite_at_both_ends():
    label, flow = p.LogSigmaLabel(), sdes.Flow()
    close(label(flow, jnp.asarray([0.0, 0.5, 1.0])), [-3.0, 0.0, 3.0], atol=1e-7)
    close(p.LogSigmaLabel(scale=1.0, gain=0.5)(sdes.EDM(), jnp.asarray([2.0])), [0.0], atol=1e-7)
    close(p.LogSigmaLabel(scale=2.0, limit=1.0)(sdes.EDM(), jnp.asarray([80.0, 1e-3])), [2.0, -2.0])


def test_new_values_of_fields_compile_nothing_again():
    traces = []

    @jax.jit
    def inputs(parameterization, sde, t):
        traces.append(None)
        return parameterization.inputs(sde, t)

    for sigma_data, scale in ((0.5, 0.25), (1.0, 1.0)):
        label = p.LogSigmaLabel(scale=scale)
        c_in, c_noise = inputs(p.EDMPreconditioning(label, sigma_data), sdes.EDM(), jnp.asarray([2.0]))
        close(c_in, 1 / np.sqrt(4 + sigma_data**2), rtol=1e-6)
        close(c_noise, scale * np.log(2), rtol=1e-6)
    assert len(traces) == 1


# Errors


@pytest.mark.parametrize("kind", [p.Epsilon, p.X0, p.Velocity, p.EDMPreconditioning])
@pytest.mark.parametrize("sigma_data", [0.0, -1.0, float("nan")])
def test_sigma_data_must_be_positive(kind, sigma_data):
    message = rf"{kind.__name__} needs sigma_data > 0, the standard deviation of the data, got {sigma_data}; images"
    with pytest.raises(ValueError, match=message):
        kind(sigma_data=sigma_data)


def test_edm_needs_sigma_data():
    with pytest.raises(Exception, match=r"EDMPreconditioning needs sigma_data > 0, .* got None|sigma_data"):
        p.EDMPreconditioning(sigma_data=None)


def test_the_log_label_needs_a_positive_gain_and_limit():
    for fields in ({"gain": 0.0}, {"limit": -1.0}):
        with pytest.raises(ValueError, match=r"LogSigmaLabel needs gain > 0 and limit > 0, got gain="):
            p.LogSigmaLabel(**fields)


def test_the_catalogues_name_every_class():
    assert {type(member) for member in PARAMETERIZATIONS.values()} == set(p.PARAMETERIZATIONS.values())
    assert set(p.NOISE_LABELS.values()) == {p.TimeLabel, p.LogSigmaLabel}
