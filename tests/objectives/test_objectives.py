"""Objectives against exact answers: the irreducible loss of a Gaussian, unbiased samplers, equal errors in every form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.denoising.denoiser import Denoiser, Uncertainty
from score_sde.denoising.estimate import Estimate
from score_sde.denoising.gaussian_mixture import GaussianMixture
from score_sde.denoising.parameterizations import EDMPreconditioning, Epsilon, ScaledScore, Score
from score_sde.internal.broadcast import expand_like
from score_sde.networks import MLP
from score_sde.objectives import (
    OBJECTIVES,
    TIME_SAMPLERS,
    WEIGHTINGS,
    DenoisingScoreMatching,
    Discrete,
    EDMWeighting,
    FlowMatching,
    Likelihood,
    LikelihoodImportance,
    LogitNormal,
    LogNormal,
    MinSNR,
    SigmaSquared,
    Sigmoid,
    SlicedScoreMatching,
    Stratified,
    Uniform,
    VelocityMatching,
)
from score_sde.objectives.weightings import squared_error
from score_sde.sdes import EDM, VE, VP, Cosine, Flow, SubVP
from tests.conformance import SDES
from tests.covering import covering
from tests.independence import assert_all_independent, assert_independent

KEY = jax.random.key(0)
NUMBER = 20_000
GAUSSIAN = GaussianMixture(jnp.ones(1), jnp.zeros((1, 2)), jnp.full((1, 2), 0.5))


def within(values, expected, sigmas=5.0):
    """Whether the mean of values is the expected number within 5 standard errors."""
    values = np.asarray(values, np.float64)
    assert abs(values.mean() - expected) < sigmas * values.std() / np.sqrt(values.size), (values.mean(), expected)


def finite_end(sde):
    return bool(jnp.isfinite(sde.log_snr(jnp.asarray(sde.t_max))))


@pytest.mark.few(4)
@pytest.mark.parametrize(("name", "weighting"), covering(SDES, WEIGHTINGS))
def test_irreducible_loss_of_a_gaussian(name, weighting):
    """With the exact denoiser, E‖δε‖²/d = 1 − σ²/v with v = α² s² + σ², and every weighting is a multiple of it."""
    sde, weighting = SDES[name], WEIGHTINGS[weighting]()
    objective = DenoisingScoreMatching(sde, weighting, Uniform(t_min=1e-3))
    t = jnp.full(NUMBER, 0.4 * sde.t_max)
    x0 = GAUSSIAN.sample(jax.random.key(9), NUMBER)
    eps = jax.random.normal(jax.random.key(1), x0.shape)
    loss, scalars = objective.loss(GAUSSIAN.denoise(sde), x0, eps, t)
    alpha, sigma = float(sde.alpha(t[0])), float(sde.sigma(t[0]))
    eps_error = 1 - sigma**2 / (alpha**2 * 0.25 + sigma**2)
    per_eps_error = {
        "eps": 1.0,
        "score": 1 / sigma**2,
        "x0": (sigma / alpha) ** 2,
        "v": (alpha + sigma**2 / alpha) ** 2,
        "flow": (1 + sigma / alpha) ** 2,
    }[weighting.error]
    within(scalars["eps_error"], eps_error)
    within(loss, float(weighting(sde, t[:1])[0]) * per_eps_error * eps_error)


# By hand. EDM: σ̃ = t, g² = 2t. Flow: σ̃ = t/(1 − t), g² = 2t/(1 − t). λ = −2 log σ̃, sigmoid(b − λ) = 1/(1 + e^−b/σ̃²).
BY_HAND = {
    "edm min_snr": (EDM(), MinSNR(), {0.1: 5.0, 0.5: 4.0, 1.0: 1.0, 2.0: 0.25}),
    "edm min_snr 2": (EDM(), MinSNR(2.0), {0.1: 2.0, 0.5: 2.0, 1.0: 1.0, 2.0: 0.25}),
    "flow min_snr": (Flow(), MinSNR(), {0.25: 5.0, 0.5: 1.0, 0.75: 1 / 9}),
    "edm sigmoid": (EDM(), Sigmoid(), {0.5: 1 / (1 + 4 * np.exp(-2)), 1.0: 1.7615942, 2.0: 4 / (1 + np.exp(-2) / 4)}),
    "edm sigmoid 0": (EDM(), Sigmoid(0.0), {1.0: 1.0, 2.0: 3.2, 3.0: 5.4}),
    "flow sigmoid -1": (Flow(), Sigmoid(-1.0), {0.5: 2 / (1 + np.e), 0.75: 6 / (1 + np.e / 9)}),
    "edm edm": (EDM(), EDMWeighting(), {0.5: 8.0, 1.0: 5.0, 2.0: 4.25}),
    "flow edm 1": (Flow(), EDMWeighting(1.0), {0.25: 10.0, 0.5: 2.0, 0.75: 10 / 9}),
    "flow likelihood": (Flow(), Likelihood(), {0.25: 2 / 3, 0.5: 2.0, 0.75: 6.0}),
    "edm sigma_squared": (EDM(), SigmaSquared(), {0.5: 1.0, 2.0: 1.0}),
    "edm flow": (EDM(), FlowMatching(), {0.5: 1.0, 2.0: 1.0}),
    "edm v": (EDM(), VelocityMatching(), {0.5: 1.0, 2.0: 1.0}),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_weightings_worked_out_by_hand(name):
    sde, weighting, expected = BY_HAND[name]
    weights = weighting(sde, jnp.array(list(expected), jnp.float32))
    np.testing.assert_allclose(weights, list(expected.values()), rtol=1e-5)


def test_the_weightings_worked_out_by_hand_are_all():
    assert {type(weighting) for _, weighting, _ in BY_HAND.values()} == set(WEIGHTINGS.values())


def test_errors_keep_their_digits_in_float32():
    """At σ = 1e-4 and σ = 80, the error of ε is right to 1e-3 where the plain difference of one of the pair is not."""
    sde, parameterization = EDM(), EDMPreconditioning()
    x0 = GAUSSIAN.sample(jax.random.key(9), 64)
    eps = jax.random.normal(jax.random.key(1), x0.shape)
    for sigma in (1e-4, 80.0):
        t = jnp.full(64, sigma)
        x = x0 + sigma * eps
        output = parameterization.target(x0, eps, t, sde) + 1e-3
        estimate = parameterization.decode(output, x, t, sde)
        scale = 0.5 / np.sqrt(0.25 + sigma**2)  # dε̂/dF
        error = squared_error(sde, estimate, x0, eps, t, "eps")
        np.testing.assert_allclose(np.sqrt(error), 1e-3 * scale, rtol=5e-3)
    plain = np.abs(np.asarray(estimate.eps - eps))
    assert np.max(np.abs(plain / (1e-3 * scale) - 1)) > 5e-3


@pytest.mark.few(3)
@pytest.mark.parametrize("sampler", [Uniform(1e-3), Stratified(1e-3), LikelihoodImportance(1e-3)])
@pytest.mark.parametrize("sde", [VP(), SubVP(), VE()], ids=lambda sde: type(sde).__name__)
def test_samplers_of_uniform_time_are_unbiased(sampler, sde):
    """E[weight · t²] is its mean over U(t_min, 1), whichever way t is drawn."""
    t, weight = sampler(KEY, sde, NUMBER)
    assert t.min() >= 1e-3 and t.max() <= 1
    within(weight * t**2, (1 - 1e-9) / 3 / (1 - 1e-3))


def test_importance_flattens_the_likelihood_weight():
    """g²/σ² times the weight is the same at every t: λ(t_min) − λ(t_max) over the length of the interval."""
    sde = VP()
    t, weight = LikelihoodImportance()(KEY, sde, 1000)
    flat = np.asarray(weight * (sde.diffusion(t) / sde.sigma(t)) ** 2)
    expected = float(sde.log_snr(1e-5) - sde.log_snr(1.0)) / (1 - 1e-5)
    np.testing.assert_allclose(flat, expected, rtol=1e-4)


def test_stratified_has_one_time_in_each_part():
    t, _ = Stratified(t_min=1e-5)(KEY, VP(), 64)
    parts = np.floor((np.asarray(t) - 1e-5) / (1 - 1e-5) * 64).astype(int)
    assert len(set(np.clip(parts, 0, 63))) >= 63  # rounding may move one across an edge


def test_log_normal_and_logit_normal_moments():
    for sde in (EDM(sigma_max=1e4), VP(), Flow()):
        t, weight = LogNormal(-0.5, 0.7)(KEY, sde, NUMBER)
        log_ratio = np.log(np.asarray(sde.sigma(t) / sde.alpha(t)))
        within(log_ratio, -0.5)
        assert abs(log_ratio.std() - 0.7) < 0.02
        assert weight.min() == weight.max() == 1
    t, _ = LogitNormal(0.3, 1.1)(KEY, Flow(), NUMBER)
    within(np.log(t / (1 - t)), 0.3)


@pytest.mark.few(8)
@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("mean", [-6.0, 5.0])
def test_log_normal_stays_within_the_sde(name, mean):
    """Also where the SDE does not go so far: VE starts at σ = 0.01."""
    sde = SDES[name]
    t, _ = LogNormal(mean, 2.0)(KEY, sde, NUMBER)
    assert bool(jnp.all((t > 0) & (t <= sde.t_max) & (sde.sigma(t) > 0)))


@pytest.mark.few(2)
@pytest.mark.parametrize("sde", [Flow(), Cosine()], ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize("parameterization", [Epsilon(), Score(), ScaledScore()], ids=lambda p: type(p).__name__)
def test_where_the_signal_is_gone_the_loss_of_eps_is_that_of_eps(sde, parameterization):
    """At t = 1 x̂0 is unknown, yet ‖δε‖² and its gradient are finite: DDPM's levels include it."""
    batch = {"x": GAUSSIAN.sample(jax.random.key(9), 8)}
    objective = DenoisingScoreMatching(sde, time_sampler=Discrete(2))
    draws = objective.draw(KEY, batch)
    assert set(np.asarray(draws["t"]).tolist()) == {0.5, 1.0}

    def losses(shift):
        def denoise(x, t):
            output = parameterization.target(jnp.zeros_like(x), draws["eps"] + shift, t, sde)
            return parameterization.decode(output, x, t, sde)

        return objective.losses(denoise, batch, draws)[0]

    np.testing.assert_allclose(losses(0.3), 0.09, rtol=1e-5)
    np.testing.assert_allclose(jax.jacfwd(losses)(0.3), 0.6, rtol=1e-5)
    np.testing.assert_allclose(jax.grad(lambda shift: losses(shift).sum())(0.3), 8 * 0.6, rtol=1e-5)


def test_discrete_levels():
    np.testing.assert_allclose(Discrete(4).times(VP()), [0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(Discrete(3, t_min=0.0).times(VE()), [0.0, 0.5, 1.0])
    t, _ = Discrete(4)(KEY, VP(), NUMBER)
    shares = np.unique(np.asarray(t), return_counts=True)[1] / NUMBER
    np.testing.assert_allclose(shares, 0.25, atol=5 * np.sqrt(0.25 * 0.75 / NUMBER))


def test_sliced_is_half_the_denoising_loss_less_a_half():
    """For any score, σ²(½‖s‖² + ∇·s)/d and ½ ‖δε‖²/d − ½ have the same mean (Vincent's identity)."""
    sde, mixture = (
        VP(),
        GaussianMixture(jnp.array([0.3, 0.7]), jnp.array([[1.0, 0.0], [-1.0, 0.5]]), jnp.full((2, 2), 0.3)),
    )
    x0 = mixture.sample(jax.random.key(9), NUMBER)

    def wrong(x, t):
        eps = 0.8 * mixture.denoise(sde)(x, t).eps
        return Estimate((x - expand_like(sde.sigma(t), x) * eps) / expand_like(sde.alpha(t), x), eps)

    sliced, _ = SlicedScoreMatching(sde, Uniform(0.05), num_projections=4)(KEY, wrong, {"x": x0})
    denoising, _ = DenoisingScoreMatching(sde, SigmaSquared(), Uniform(0.05))(jax.random.key(5), wrong, {"x": x0})
    difference = float(sliced.mean() - (0.5 * denoising.mean() - 0.5))
    assert abs(difference) < 5 * np.sqrt((sliced.var() + 0.25 * denoising.var()) / NUMBER)


def test_learned_uncertainty_is_minimal_where_it_is_the_log_of_the_loss():
    """d/du (loss e^−u + u) = 0 at u = log loss; at u = 0 the loss is unchanged."""
    sde = VP()
    network = MLP(width=8, depth=1)
    denoiser = Denoiser(sde, EDMPreconditioning(), network, Uncertainty())
    batch = {"x": GAUSSIAN.sample(jax.random.key(9), 512)}
    params = denoiser.init(KEY, batch)
    plain, _ = DenoisingScoreMatching(sde, EDMWeighting())(KEY, denoiser.bind(params), batch)
    objective = DenoisingScoreMatching(sde, EDMWeighting(), learned_uncertainty=True)

    def shifted(u):
        bias = params["uncertainty"]["Dense_0"]["bias"] + u
        dense = {**params["uncertainty"]["Dense_0"], "bias": bias}
        return objective(KEY, denoiser.bind({**params, "uncertainty": {"Dense_0": dense}}), batch)[0].mean()

    np.testing.assert_allclose(shifted(0.0), plain.mean(), rtol=1e-6)
    np.testing.assert_allclose(jax.grad(shifted)(jnp.log(plain.mean())), 0.0, atol=1e-5)


def test_conditions_and_order_do_not_matter_to_the_loss():
    """Per example, and the same under jit."""
    objective = DenoisingScoreMatching(VP(), Likelihood())
    batch = {"x": GAUSSIAN.sample(jax.random.key(9), 16)}
    loss, _ = objective(KEY, GAUSSIAN.denoise(VP()), batch)
    jitted, _ = jax.jit(lambda o, k, b: o(k, GAUSSIAN.denoise(o.sde), b))(objective, KEY, batch)
    np.testing.assert_allclose(loss, jitted, rtol=2e-4)
    assert loss.shape == (16,)


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "objective",
    [DenoisingScoreMatching(VP()), SlicedScoreMatching(VP(), num_projections=3)],
    ids=lambda o: type(o).__name__,
)
def test_a_part_of_a_batch_has_the_losses_it_has_in_the_whole(objective):
    """With its rows of what was drawn for the whole: rows 5 to 10 of 16."""
    batch = {"x": GAUSSIAN.sample(jax.random.key(9), 16)}
    denoise, draws = GAUSSIAN.denoise(VP()), objective.draw(KEY, batch)
    whole, _ = objective(KEY, denoise, batch)
    rows, drawn = jax.tree.map(lambda array: array[5:10], (batch, draws))
    part, scalars = objective.losses(denoise, rows, drawn)
    np.testing.assert_allclose(part, whole[5:10], rtol=1e-6)
    np.testing.assert_array_equal(scalars["t"], draws["t"][5:10])
    assert all(array.shape[0] == 16 for array in jax.tree.leaves(draws))


@pytest.mark.few(2)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_all_that_an_objective_draws_is_independent(name):
    """t, ε and the directions, of one example and of different ones, over 3000 keys."""
    objective = OBJECTIVES[name](VP(), **({"num_projections": 2} if name == "sliced" else {}))
    batch = {"x": jnp.zeros((3, 2))}
    draws = jax.vmap(lambda key: objective.draw(key, batch))(jax.random.split(KEY, 3000))
    random = {name: values for name, values in draws.items() if name != "time_weight"}
    assert random.keys() >= {"t", "eps"}
    assert_independent(**random)
    for values in random.values():
        assert_all_independent(values)


@pytest.mark.few(3)
@pytest.mark.parametrize("name", TIME_SAMPLERS)
def test_every_sampler_runs_on_every_sde(name):
    for sde in SDES.values():
        sampler = TIME_SAMPLERS[name]()
        if name == "likelihood_importance" and not finite_end(sde):
            sampler = LikelihoodImportance(t_max=0.99)
        sampler.check(sde)
        t, weight = sampler(KEY, sde, NUMBER)
        assert bool(jnp.all((t > 0) & (t <= sde.t_max) & jnp.isfinite(weight)))


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match='needs reduce "mean" or "sum", got \'max\''):
        DenoisingScoreMatching(VP(), reduce="max")
    with pytest.raises(ValueError, match="0 < t_min < t_max <= 1"):
        DenoisingScoreMatching(VP(), time_sampler=Uniform(t_min=2.0))
    with pytest.raises(ValueError, match="0 < t_min < t_max"):
        SlicedScoreMatching(VP(), Stratified(t_min=0.0))
    with pytest.raises(ValueError, match="finite log-SNR at t_max.*set t_max=0.999"):
        DenoisingScoreMatching(Flow(), time_sampler=LikelihoodImportance())
    for sampler in (LogNormal(std=0.0), LogitNormal(std=-1.0)):
        with pytest.raises(ValueError, match="needs std > 0"):
            DenoisingScoreMatching(VP(), time_sampler=sampler)
    with pytest.raises(ValueError, match="num_levels >= 2"):
        DenoisingScoreMatching(VP(), time_sampler=Discrete(1))
    for gamma in (-1.0, 0.0, float("nan")):
        with pytest.raises(
            ValueError, match=f"MinSNR needs gamma > 0, the largest weight, got gamma={gamma}; the paper"
        ):
            MinSNR(gamma)
    for sigma_data in (0.0, -0.5, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=f"EDMWeighting needs sigma_data > 0.*got sigma_data={sigma_data}; images"):
            EDMWeighting(sigma_data)
    assert jax.grad(lambda s: EDMWeighting(s)(EDM(), jnp.ones(1))[0])(0.5) == -16  # a traced field is not checked
    with pytest.raises(ValueError, match="num_projections >= 1, got 0"):
        SlicedScoreMatching(VP(), num_projections=0)
    denoise = Denoiser(VP(), EDMPreconditioning(), MLP(width=8, depth=1)).bind({})
    with pytest.raises(ValueError, match=r"Denoiser\(uncertainty=Uncertainty\(\)\)"):
        denoise.log_variance(jnp.ones(2))
