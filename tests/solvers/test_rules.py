"""Single steps: identities between solvers, exact cases, limits, the correctors' step sizes."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sdes, solvers
from score_sde.denoising.estimate import Estimate
from score_sde.denoising.function_denoiser import FunctionDenoiser
from score_sde.denoising.gaussian_mixture import GaussianMixture
from score_sde.solvers import noise, sample
from tests.conformance import DETERMINISTIC, SDES, SOLVERS, STOCHASTIC
from tests.solvers.draws import replace_noise

KEY = jax.random.key(5)
X = jnp.asarray([[0.3, -1.2, 0.8], [1.5, 0.1, -0.4]])
TWO_POINTS = GaussianMixture(
    jnp.asarray([0.4, 0.6]), jnp.asarray([[1.0, 0.5, -0.5], [-0.8, 0.2, 0.1]]), 0.3 * jnp.ones((2, 3))
)


def step(solver, sde, t, s, denoise=None, x=X, key=KEY):
    denoise = TWO_POINTS.denoise(sde) if denoise is None else denoise
    return _step(key, denoise, solver, x, jnp.asarray(t), jnp.asarray(s))


@functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
def _step(key, denoise, solver, x, t, s):
    return solver.step(key, denoise, x, t, s, solver.init(x, 1))[0]


def agree(a, b, tolerance=2e-6):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance)


@pytest.mark.few(2)
@pytest.mark.parametrize("name", ["sub_vp", "ve", "flow", "ddpm"])
def test_ddim_with_eta_1_is_ancestral(name):
    """With the same noise, for every SDE and not only for VP, because (x̂0, ε̂) explain x_t."""
    sde = SDES[name]
    for t, s in ((0.9, 0.6), (0.5, 0.1), (0.2, 0.0)):
        t, s = t * sde.t_max, s * sde.t_max
        agree(step(solvers.DDIM(1.0), sde, t, s), step(solvers.Ancestral(), sde, t, s), 1e-5)


def test_without_churn_edm_is_heun_and_on_flow_euler_is_ddim():
    for t, s in ((0.9, 0.6), (0.2, 0.0)):
        agree(step(solvers.EDMHeun(), sdes.VP(), t, s), step(solvers.Heun(), sdes.VP(), t, s))
        agree(step(solvers.Euler(), sdes.Flow(), t, s), step(solvers.DDIM(), sdes.Flow(), t, s))


def test_a_step_to_zero_is_the_denoised_image():
    for name in ("sub_vp", "edm", "cosine"):
        sde = SDES[name]
        t = jnp.asarray(0.3 * sde.t_max)
        denoised = TWO_POINTS.denoise(sde)(X, t).x0
        for solver in (solvers.DDIM(), solvers.DDIM(0.7), solvers.Ancestral()):
            agree(step(solver, sde, t, 0.0), denoised)
    # VE ends at σ_min, which only DenoiseLast takes away.
    ve = sdes.VE()
    denoised = TWO_POINTS.denoise(ve)(X, jnp.asarray(0.3)).x0
    assert np.abs(step(solvers.DDIM(), ve, 0.3, 0.0) - denoised).max() > 1e-3
    agree(step(solvers.DenoiseLast(solvers.EulerMaruyama()), ve, 0.3, 0.0), denoised)
    agree(step(solvers.DenoiseLast(solvers.EulerMaruyama()), ve, 0.3, 0.2), step(solvers.EulerMaruyama(), ve, 0.3, 0.2))


def test_ancestral_and_ddim_are_exact_for_one_data_point():
    """x0 = c: whatever the steps, x_s ~ N(α_s c, σ_s² I), and DDIM keeps ε."""
    point = GaussianMixture(jnp.ones(1), jnp.asarray([[0.7, -0.3, 0.2]]), jnp.zeros((1, 3)))
    for name in ("sub_vp", "flow"):
        sde = SDES[name]
        alpha, sigma = sde.marginal(jnp.asarray(0.25))
        x = sample(KEY, point.denoise(sde), solvers.Ancestral(), solvers.grids.Given([1.0, 0.6, 0.25]), (4000, 3)).x
        eps = (np.asarray(x, np.float64) - float(alpha) * np.asarray(point.means)) / float(sigma)
        assert np.abs(eps.mean(axis=0)).max() < 4 / np.sqrt(4000)
        assert np.abs(np.cov(eps.T) - np.eye(3)).max() < 4 * np.sqrt(2 / 4000)
        kept = point.denoise(sde)(X, jnp.asarray(0.9)).eps
        agree(step(solvers.DDIM(), sde, 0.9, 0.25, point.denoise(sde)), alpha * point.means + sigma * kept, 1e-5)


def test_churn_leaves_the_right_marginal():
    """On Gaussian data x̂ has the variance of p at t̂: churn and back in one step, against the step without noise."""
    data = GaussianMixture(jnp.ones(1), jnp.zeros((1, 1)), jnp.full((1, 1), 0.5))
    sde, t = sdes.VP(), 0.4
    variances = []
    for churn in (0.0, 0.4):
        x = jnp.sqrt(0.25 * sde.alpha(t) ** 2 + sde.sigma(t) ** 2) * jax.random.normal(jax.random.key(1), (40_000, 1))
        variances.append(float(jnp.var(step(solvers.EDMHeun(S_churn=churn), sde, t, 0.39, data.denoise(sde), x))))
    assert abs(variances[1] / variances[0] - 1) < 4 * np.sqrt(2 * 2 / 40_000)


def test_churn_only_between_s_min_and_s_max_and_never_where_the_signal_is_gone():
    def moved(solver, sde, t):
        return bool(jnp.any(step(solver, sde, t, 0.5 * t) != step(solvers.EDMHeun(), sde, t, 0.5 * t)))

    vp = sdes.VP()
    ratio = float(jnp.exp(-0.5 * vp.log_snr(0.3)))
    assert moved(solvers.EDMHeun(S_churn=0.3, S_min=0.9 * ratio, S_max=1.1 * ratio), vp, 0.3)
    assert not moved(solvers.EDMHeun(S_churn=0.3, S_min=1.1 * ratio), vp, 0.3)
    assert not moved(solvers.EDMHeun(S_churn=0.3, S_max=0.9 * ratio), vp, 0.3)
    assert not moved(solvers.EDMHeun(S_churn=0.3), sdes.Flow(), 1.0)
    # γ is at most √2 − 1.
    agree(
        step(solvers.EDMHeun(S_churn=5.0), vp, 0.3, 0.2),
        step(solvers.EDMHeun(S_churn=np.sqrt(2) - 1), vp, 0.3, 0.2),
        1e-5,
    )


def test_the_second_evaluation_is_left_out_only_where_there_is_no_noise():
    for sde, expected in ((sdes.VP(), 1), (sdes.EDM(), 1), (sdes.VE(), 2)):  # σ(0) of VE is σ_min
        solver = solvers.Heun()
        args = KEY, TWO_POINTS.denoise(sde), X, jnp.asarray(0.2), jnp.asarray(0.0), solver.init(X, 1)
        assert solver.step(*args)[2] == expected


def test_the_corrector_comes_first_and_draws_its_own_noise():
    sde, t, s = sdes.VP(), 0.5, 0.4
    corrector, predictor = solvers.AnnealedLangevin(), solvers.EulerMaruyama()
    corrected = step(corrector, sde, t, s, key=noise.fold_in(KEY, 0))
    expected = step(predictor, sde, t, s, x=corrected, key=noise.fold_in(KEY, 1))
    agree(step(solvers.PredictorCorrector(predictor, corrector), sde, t, s), expected)


def constant(eps):
    """A denoiser of VP whose ε̂ is given, image by image."""
    return FunctionDenoiser(sdes.VP(), lambda x, t: Estimate(jnp.zeros_like(x), jnp.asarray(eps)))


def test_langevin_step_sizes(monkeypatch):
    """ε = 2 α (snr ‖z‖/‖g‖)² of each image, and 2 α (snr σ)²; α = α_{t|s}²."""
    sde, t, s, snr = sdes.VP(), 0.5, 0.4, 0.2
    z = jnp.asarray([[1.0, -2.0, 0.5], [0.3, 0.3, -0.9]])
    eps = jnp.asarray([[0.8, 1.0, -0.6], [-1.5, 0.2, 0.1]])
    replace_noise(monkeypatch, lambda key, x: z[: len(x)])
    sigma, alpha = float(sde.sigma(t)), float(sde.transition(jnp.asarray(s), jnp.asarray(t)).scale) ** 2
    norms = (np.linalg.norm(v, axis=1, keepdims=True) for v in (z, eps / sigma))
    sizes = 2 * alpha * (snr * next(norms) / next(norms)) ** 2
    expected = X - sizes * eps / sigma + np.sqrt(2 * sizes) * z
    agree(step(solvers.Langevin(snr), sde, t, s, constant(eps)), expected)
    agree(step(solvers.Langevin(snr), sde, t, s, constant(eps[:1]), X[:1]), expected[:1])
    size = 2 * alpha * (snr * sigma) ** 2
    agree(step(solvers.AnnealedLangevin(snr), sde, t, s, constant(eps)), X - size * eps / sigma + np.sqrt(2 * size) * z)


def test_a_vanishing_score_does_not_send_an_image_to_infinity(monkeypatch):
    """‖z‖/‖ε̂‖ stops at max_ratio: the step of a zero score is a plain draw of the size of a few noise levels."""
    sde, t, s = sdes.VP(), 0.5, 0.4
    z = jnp.ones((2, 3))
    replace_noise(monkeypatch, lambda key, x: z)
    scale, sigma = float(sde.transition(jnp.asarray(s), jnp.asarray(t)).scale), float(sde.sigma(t))
    for tiny in (0.0, 1e-30, 1e-3):
        moved = step(solvers.Langevin(0.16, max_ratio=3.0), sde, t, s, constant(jnp.full((2, 3), tiny)))
        agree(moved, X + 2 * scale * 0.16 * sigma * 3.0, 1e-2)


def test_a_nan_from_the_network_is_seen():
    broken = constant(jnp.full((2, 3), jnp.nan))
    for solver in (
        solvers.Langevin(),
        solvers.AnnealedLangevin(),
        solvers.DDIM(),
        solvers.EulerMaruyama(),
        solvers.EDMHeun(),
    ):
        assert np.all(np.isnan(step(solver, sdes.VP(), 0.5, 0.4, broken))), solver
    assert np.all(np.isnan(noise.scaled(KEY, sdes.VP(), X, jnp.asarray(jnp.nan))))


def test_langevin_reaches_its_level():
    """Many annealed steps at one level draw from p_t, from wherever they start."""
    data = GaussianMixture(jnp.ones(1), jnp.full((1, 1), 0.7), jnp.full((1, 1), 0.6))
    sde, t = sdes.VP(), 0.3
    alpha, sigma = (float(v) for v in sde.marginal(jnp.asarray(t)))
    std = np.hypot(alpha * 0.6, sigma)
    for solver in (solvers.AnnealedLangevin(0.16, 300), solvers.AnnealedLangevin(0.4, 60)):
        x = np.asarray(step(solver, sde, t, 0.299, data.denoise(sde), jnp.full((20_000, 1), 5.0)))
        assert abs(x.mean() - 0.7 * alpha) < 4 * std / np.sqrt(20_000)
        assert abs(x.std() / std - 1) < 4 / np.sqrt(40_000) + solver.snr**2 / 2  # the bias of order ε


def test_bad_fields():
    with pytest.raises(ValueError, match="DDIM needs 0 <= eta <= 1, got eta=1.5"):
        solvers.DDIM(eta=1.5)
    with pytest.raises(ValueError, match="Ancestral needs 0 <= v <= 1, got v=-0.1"):
        solvers.Ancestral(v=-0.1)
    for fields in (
        {"S_churn": -1.0},
        {"S_min": 2.0, "S_max": 1.0},
        {"S_noise": -1.0},
        {"fraction": 0.0},
        {"fraction": 1.5},
    ):
        with pytest.raises(ValueError, match=r"EDMHeun needs S_churn >= 0, 0 <= S_min <= S_max.*got EDMHeun\("):
            solvers.EDMHeun(**fields)
    for fields in ({"snr": 0.0}, {"num_steps": 0}):
        for corrector in (solvers.Langevin, solvers.AnnealedLangevin):
            with pytest.raises(ValueError, match=rf"{corrector.__name__} needs snr > 0, num_steps >= 1"):
                corrector(**fields)
    with pytest.raises(ValueError, match="Langevin needs snr > 0, num_steps >= 1 and limits above 0"):
        solvers.Langevin(max_ratio=0.0)
    with pytest.raises(ValueError, match="Adaptive needs rtol >= 0 and atol > 0, got rtol=-1.0"):
        solvers.ProbabilityFlow(rtol=-1.0)


# Solvers that need a denoiser of several models, and the file that tests them.
ELSEWHERE = {solvers.FeynmanKac: "guidance/test_product.py"}


def test_every_solver_of_the_catalogue_is_tested():
    for solver, file in ELSEWHERE.items():
        assert f"{solver.__name__}(" in (pathlib.Path(__file__).parents[1] / file).read_text(encoding="utf-8")
    members = [*SOLVERS.values(), *DETERMINISTIC.values(), *STOCHASTIC.values()]
    tested = {type(solver) for solver in members}
    tested |= {type(part) for solver in members for part in vars(solver).values()}
    assert set(solvers.SOLVERS.values()) <= tested | set(ELSEWHERE)
