"""Energy guidance on a Gaussian, where x̂0 is linear in x_t, so that every way has a closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.denoising import GaussianMixture
from score_sde.guidance import EnergyGuidance, MeanColor, Quadratic
from score_sde.sdes import VP
from tests.guidance.test_classifier_free import points

SDE, T = VP(), jnp.float32(0.4)
ALPHA, SIGMA = float(SDE.alpha(T)), float(SDE.sigma(T))
MEAN, STD, TARGET, PRECISION = 0.5, 0.7, -1.0, 0.3
DENOISE = GaussianMixture(jnp.ones(1), jnp.full((1, 2), MEAN), jnp.full((1, 2), STD)).denoise(SDE)
SLOPE = ALPHA * STD**2 / (ALPHA**2 * STD**2 + SIGMA**2)  # dx̂0/dx_t
ENERGY = Quadratic(TARGET, PRECISION)


def explains(found, x):
    np.testing.assert_allclose(ALPHA * found.x0 + SIGMA * found.eps, x, rtol=1e-5, atol=1e-5)


@pytest.mark.few(2)
@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_an_energy_of_x_t_multiplies_the_density_of_x_t(scale):
    """N(α m, v) exp(−scale E) is a Gaussian again: the score of it."""
    x = points(4)
    found = EnergyGuidance(scale, energy=ENERGY, of="x_t").wrap(DENOISE, {})(x, T)
    variance = ALPHA**2 * STD**2 + SIGMA**2
    precision = 1 / variance + scale * PRECISION
    mean = (ALPHA * MEAN / variance + scale * PRECISION * TARGET) / precision
    np.testing.assert_allclose(-found.eps / SIGMA, -precision * (x - mean), rtol=1e-5, atol=1e-5)
    explains(found, x)


def test_through_the_network():
    """∇_{x_t} E(x̂0) = precision (x̂0 − target) dx̂0/dx_t, with any function as the energy."""
    x = points(4)
    before = DENOISE(x, T)

    def energy(x0, t):
        return 0.5 * PRECISION * jnp.sum((x0 - TARGET) ** 2, axis=1)

    for each in (ENERGY, energy):
        found = EnergyGuidance(2.0, energy=each).wrap(DENOISE, {})(x, T)
        shift = 2.0 * PRECISION * (before.x0 - TARGET) * SLOPE
        np.testing.assert_allclose(found.eps, before.eps + SIGMA * shift, rtol=1e-5, atol=1e-5)
        explains(found, x)


@pytest.mark.parametrize("num_steps", [1, 3])
def test_steps_on_x0_shrink_the_distance_to_the_target(num_steps):
    """Each by 1 − scale · precision."""
    x = points(4)
    before = DENOISE(x, T)
    found = EnergyGuidance(0.8, energy=ENERGY, of="x0", num_steps=num_steps).wrap(DENOISE, {})(x, T)
    left = (1 - 0.8 * PRECISION) ** num_steps
    np.testing.assert_allclose(found.x0, TARGET + left * (before.x0 - TARGET), rtol=1e-5, atol=1e-5)
    explains(found, x)


@pytest.mark.few(2)
@pytest.mark.parametrize("of", ["x_t", "x0_through", "x0"])
def test_norms_are_of_each_image(of):
    """unit: the change of the score (or x̂0) has the length `scale`; relative: `scale` times the length of what changes."""
    x = points(4)
    before = DENOISE(x, T)
    for norm in ("unit", "relative"):
        found = EnergyGuidance(0.3, energy=ENERGY, of=of, norm=norm).wrap(DENOISE, {})(x, T)
        change, changed = found.eps - before.eps, before.eps
        if of == "x0":
            change, changed = found.x0 - before.x0, before.x0
        unit = 1.0 if of == "x0" else SIGMA
        expected = unit if norm == "unit" else jnp.linalg.norm(changed, axis=1)
        np.testing.assert_allclose(jnp.linalg.norm(change, axis=1), 0.3 * expected, rtol=1e-4)
        alone = EnergyGuidance(0.3, energy=ENERGY, of=of, norm=norm).wrap(DENOISE, {})(x[:1], T)
        np.testing.assert_allclose(alone.eps[0], found.eps[0], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_the_interval_and_a_vanishing_gradient():
    """Outside nothing changes, to the last bit; also for a time of each image. Where ∇E = 0 no norm makes a NaN."""
    x, rule = points(3), EnergyGuidance(2.0, log_snr_max=1.0, energy=ENERGY)
    times = SDE.time_of_log_snr(jnp.array([0.0, 2.0, 0.5]))
    each, free = rule.wrap(DENOISE, {})(x, times), EnergyGuidance(2.0, energy=ENERGY).wrap(DENOISE, {})(x, times)
    before = DENOISE(x, times)
    np.testing.assert_array_equal(each.x0[1], before.x0[1])
    np.testing.assert_allclose(each.x0[::2], free.x0[::2], rtol=1e-6)
    assert np.abs(each.x0[::2] - before.x0[::2]).max() > 1e-2
    np.testing.assert_array_equal(rule.wrap(DENOISE, {})(x, times[1]).x0, DENOISE(x, times[1]).x0)
    flat = EnergyGuidance(2.0, energy=Quadratic(TARGET, 0.0), norm="unit").wrap(DENOISE, {})(x, T)
    np.testing.assert_array_equal(flat.x0, DENOISE(x, T).x0)


def test_energies():
    x = jax.random.normal(jax.random.key(0), (2, 3, 3, 2))
    color = MeanColor((0.2, -0.1), 2.0)
    means = x.mean((1, 2))
    expected = np.sum((means - np.array([[0.2, -0.1]])) ** 2, axis=1)
    np.testing.assert_allclose(color(x, T), expected, rtol=1e-5)
    target = Quadratic((0.2, -0.1), 2.0)
    expected = np.sum((x - np.array([0.2, -0.1]).reshape(1, 1, 1, 2)) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(target(x, T), expected, rtol=1e-5)


def test_mistakes():
    with pytest.raises(ValueError, match="num_steps = 1 for of='x_t', and num_steps >= 1 for of='x0', got num_steps=2"):
        EnergyGuidance(1.0, of="x_t", num_steps=2)
    with pytest.raises(ValueError, match="EnergyGuidance needs log_snr_min <= log_snr_max"):
        EnergyGuidance(1.0, 2.0, 1.0)
