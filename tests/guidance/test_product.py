"""Products of densities: composition, its bias, and the particles that remove it. For Gaussians all is a closed form."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.denoising import GaussianMixture
from score_sde.denoising.factors import Factored
from score_sde.guidance import APG, Autoguidance, ClassifierFree, Piecewise, Product, Threshold, compose, guide
from score_sde.sdes import VE, VP
from score_sde.solvers import DDIM, AnnealedLangevin, EulerMaruyama, FeynmanKac, PredictorCorrector, sample
from score_sde.solvers.grids import Uniform
from tests.guidance.test_classifier_free import model, points
from tests.solvers.test_sample import compilations

SDE, T, KEY = VP(), jnp.float32(0.4), jax.random.key(1)
LABELS = np.array([0, 1, 2, 1])


def gaussian(mean, std, dimension=1):
    shape = (1, dimension)
    return GaussianMixture(jnp.ones(1), jnp.full(shape, mean), jnp.full(shape, std)).denoise(SDE)


CONDITIONAL, UNCONDITIONAL = gaussian(1.0, 0.5), gaussian(0.0, 1.0)


def of_product(*parts):
    """(mean, variance) of ∏ N(mean, std²)^power, from (mean, std, power)."""
    precision = sum(power / std**2 for _, std, power in parts)
    return sum(power * mean / std**2 for mean, std, power in parts) / precision, 1 / precision


def moments(denoise, solver, number=2000, num_steps=200, dimension=1):
    drawn = sample(KEY, denoise, solver, Uniform(num_steps, end=1e-3), (number, dimension)).x
    return np.asarray(drawn).mean(0), np.asarray(drawn).var(0)


def test_one_condition_is_classifier_free_guidance():
    x = points(4)
    found = Product(powers=(2.5,)).wrap(model(LABELS), {})(x, T)
    expected = ClassifierFree(2.5).wrap(model(LABELS), {})(x, T)
    for value, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-5, atol=1e-5)


def test_several_conditions_are_one_call_and_the_sum_of_scores():
    """u + Σ a_i (q_i − u); {} is the model's own condition. Without the null condition, Σ a_i q_i."""
    x, denoise = points(4), model(LABELS)
    own, second, null = (model(label)(x, T) for label in (LABELS, np.full(4, 2), np.full(4, 3)))
    guided = Product(({}, {"label": 2}), (1.5, -0.7)).wrap(denoise, {})
    expected = null.eps + 1.5 * (own.eps - null.eps) - 0.7 * (second.eps - null.eps)
    found = guided(x, T)
    np.testing.assert_allclose(found.eps, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(SDE.alpha(T) * found.x0 + SDE.sigma(T) * found.eps, x, rtol=1e-4, atol=1e-5)
    assert int(guided.evaluations(T)) == 3
    weighted = Product(({}, {"label": 2}), (0.3, 0.7), null_power=0.0).wrap(denoise, {})
    for value, a, b in zip(weighted(x, T), own, second, strict=True):
        np.testing.assert_allclose(value, 0.3 * a + 0.7 * b, rtol=1e-5, atol=1e-5)
    assert int(weighted.evaluations(T)) == 2
    each = guided(x, jnp.full(4, T))
    np.testing.assert_allclose(each.eps, found.eps, rtol=1e-5, atol=1e-5)


@pytest.mark.few(2)
@pytest.mark.parametrize(
    "guided",
    [
        compose((CONDITIONAL, UNCONDITIONAL), (3.0, -2.0)),
        ClassifierFree(3.0).wrap(model(LABELS), {}),
        Autoguidance(2.0, weak=UNCONDITIONAL).wrap(CONDITIONAL, {}),
        Product(({}, {"label": 2})).wrap(model(LABELS), {}),
    ],
)
def test_factors_and_repeated_rows_are_the_denoiser(guided):
    """Of a product whose powers need not sum to 1, and with each image three times."""
    x = points(4) if guided.sde is None or "condition" in repr(guided) else points(4)[:, :1]
    assert isinstance(guided, Factored)
    expected, found = guided(x, T), guided.factors(x, T).product(guided.sde, x, T)
    repeated = guided.repeated(3)(jnp.repeat(x, 3, axis=0), T)
    for value, one, three in zip(expected, found, repeated, strict=True):
        np.testing.assert_allclose(one, value, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(three[::3], value, rtol=1e-5, atol=1e-5)


@jax.jit
def weighted(denoise, solver, times):
    """(mean, mean square) of the weighted particles of each of 32 images, after a solve by hand."""

    def step(state, k):
        x, carry = state
        found = solver.step(jax.random.fold_in(KEY, k), denoise, x, times[k], times[k + 1], carry)
        return found[:2], None

    x = jnp.zeros((32, 1))
    _, particles = jax.lax.scan(step, (x, solver.init(x, len(times) - 1)), jnp.arange(len(times) - 1))[0]
    weights, values = jax.nn.softmax(particles.log_weights, axis=1), particles.x[:, :, 0]
    return jnp.sum(weights * values, axis=1), jnp.sum(weights * values**2, axis=1)


def check_particles(models, parts):
    """The moments of the product, within the spread of 32 independent clouds of 2000 particles each."""
    mean, variance = of_product(*parts)
    times = jnp.asarray(Uniform(200, end=1e-3).times(SDE), jnp.float32)
    found = weighted(compose(models, [part[2] for part in parts]), FeynmanKac(2000), times)
    for values, expected in zip(map(np.asarray, found), (mean, variance + mean**2), strict=True):
        error = values.std() / np.sqrt(len(values))
        assert error < 0.03
        # The steps and the finite number of particles leave 0.01.
        assert abs(values.mean() - expected) < 4 * error + 0.01


def test_particles_remove_the_bias_of_guidance():
    """A scale of 3: mean 1.2 and variance 0.1. The summed score alone gives 1.313 and 0.067."""
    assert of_product((1.0, 0.5, 3.0), (0.0, 1.0, -2.0)) == pytest.approx((1.2, 0.1))
    guided = compose((CONDITIONAL, UNCONDITIONAL), (3.0, -2.0))
    plain, plain_variance = moments(guided, EulerMaruyama(), number=8000)
    assert abs(plain - 1.3127) < 0.015 and abs(plain_variance - 0.067) < 0.006
    check_particles((CONDITIONAL, UNCONDITIONAL), ((1.0, 0.5, 3.0), (0.0, 1.0, -2.0)))


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("models", "parts"),
    [
        ((UNCONDITIONAL,), ((0.0, 1.0, 2.0),)),
        ((CONDITIONAL, UNCONDITIONAL), ((1.0, 0.5, 1.0), (0.0, 1.0, 1.0))),
    ],
)
def test_particles_anneal_and_multiply(models, parts):
    """Powers that do not sum to 1: the prior is narrower."""
    check_particles(models, parts)


def test_langevin_steps_lessen_the_bias_of_a_product():
    denoise = compose((CONDITIONAL, gaussian(-0.5, 0.8)), (1.0, 1.0))
    mean, _ = of_product((1.0, 0.5, 1.0), (-0.5, 0.8, 1.0))
    plain, _ = moments(denoise, DDIM(), num_steps=40)
    corrector = AnnealedLangevin(snr=0.4, num_steps=10)
    corrected, _ = moments(denoise, PredictorCorrector(DDIM(), corrector), num_steps=40)
    assert abs(corrected - mean) < 0.3 * abs(plain - mean)


def test_particles_are_of_one_image_and_counted():
    """Image i is the same alone. Each step costs the particles times the factors; other numbers compile nothing."""
    guided, grid = ClassifierFree(2.0).wrap(model(LABELS), {}), Uniform(5, end=0.1)
    found = sample(KEY, guided, FeynmanKac(4, threshold=0.9), grid, (4, 2))
    alone = sample(KEY, ClassifierFree(2.0).wrap(model(LABELS[:1]), {}), FeynmanKac(4, threshold=0.9), grid, (1, 2))
    np.testing.assert_allclose(found.x[0], alone.x[0], rtol=1e-4, atol=1e-5)
    assert found.nfe.tolist() == [5 * 4 * 2] * 4
    with compilations() as seen:
        other = ClassifierFree(1.5).wrap(model(LABELS), {})
        sample(KEY, other, FeynmanKac(4, threshold=0.5), grid, (4, 2))
    assert not seen


def test_one_particle_is_euler_maruyama_with_a_weight_of_one():
    """Scale 1: all weights stay equal, so nothing is resampled, and the density is the conditional one."""
    guided = compose((CONDITIONAL, UNCONDITIONAL), (1.0, 0.0))
    mean, variance = moments(guided, FeynmanKac(2), number=4000)
    assert (
        abs(mean - 1.0) < 5 * 0.5 / np.sqrt(4000) + 0.01 and abs(variance - 0.25) < 0.25 * 5 * np.sqrt(2 / 4000) + 0.01
    )


def test_mistakes():
    with pytest.raises(
        ValueError, match=r"needs a model with the conditions \['colour'\] first.*ByClass with \['label'\]"
    ):
        Product(({"colour": 1},)).wrap(model(LABELS), {})
    with pytest.raises(ValueError, match="one power for each, got 1 conditions and powers="):
        Product(({},), (1.0, 2.0))
    with pytest.raises(ValueError, match="one power for each, all of one SDE, got 2 models of"):
        compose((CONDITIONAL, dataclasses.replace(UNCONDITIONAL, sde=VE())), (1.0, 1.0))
    with pytest.raises(ValueError, match="needs num_particles >= 1 and 0 <= threshold <= 1, got num_particles=0"):
        FeynmanKac(0)

    def draw(*rules):
        return sample(KEY, guide(model(LABELS), rules), FeynmanKac(2), Uniform(2, end=0.1), (4, 2))

    with pytest.raises(ValueError, match="FeynmanKac needs a denoiser with factors, got ChangedEstimate"):
        draw(ClassifierFree(2.0), Threshold())
    for rule in (APG(2.0), ClassifierFree(2.0, log_snr_max=1.0), ClassifierFree(2.0, schedule=Piecewise())):
        with pytest.raises(ValueError, match="is no product of densities with constant powers"):
            draw(rule)
