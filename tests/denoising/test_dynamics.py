"""The probability flow and the reverse SDE, compared with each other and with their effect on a density."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.denoising.dynamics import reverse_drift, score, velocity
from score_sde.denoising.gaussian_mixture import GaussianMixture
from tests.sdes.peers import ALL, DRAWS, facts

every_sde = pytest.mark.parametrize("name", ALL)
GAUSSIAN = GaussianMixture(jnp.asarray([1.0]), jnp.asarray([[0.7, -0.4]]), jnp.asarray([[0.5, 0.3]]))


@pytest.mark.few(8)
@every_sde
@pytest.mark.parametrize("wide", [True, False])
def test_velocity_and_reverse_drift_are_the_papers(name, wide):
    """α' x̂0 + σ' ε̂ = f x − ½ g² score; the reverse SDE's drift has the whole g²; in float64 and float32."""
    _, now = facts(name, wide)
    alpha, sigma, f, g = (now[key][:, None] for key in ("alpha", "sigma", "drift", "diffusion"))
    x0, eps = DRAWS
    np.testing.assert_allclose(now["score"] * sigma, -eps, rtol=1e-6)
    if wide:  # the gradient of log N(x; α x0, σ²), where x − α x0 cancels
        np.testing.assert_allclose(now["score"] * sigma, -(now["x"] - alpha * x0) / sigma, rtol=1e-6, atol=1e-6)
    linear, pull = f * (alpha * x0 + sigma * eps), g**2 * eps / sigma
    # f of a table is known to 3e-5 in float32.
    tolerance = 1e-9 if wide else 1e-4 if name in ("ddpm", "iddpm") else 2e-5
    size = tolerance * (np.abs(linear) + np.abs(pull))
    assert np.all(np.abs(now["velocity"] - (linear + 0.5 * pull)) <= size)
    assert np.all(np.abs(now["reverse_drift"] - (linear + pull)) <= size)


@every_sde
def test_the_flow_carries_the_mean_and_the_width_of_a_gaussian(name):
    """dx/dt of the exact denoiser is m' + (x − m) s'/s for p_t = N(m, s²), by finite differences."""
    with jax.enable_x64(True):
        sde = ALL[name]
        gaussian = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), GAUSSIAN)
        t = jnp.asarray(np.array([0.0312, 0.3123, 0.8127]) * sde.t_max)  # off the knots of the tables
        x = jnp.asarray(np.random.default_rng(1).standard_normal((3, 2)))

        def moments(t):
            alpha, sigma = sde.alpha(t)[:, None], sde.sigma(t)[:, None]
            return alpha * gaussian.means, jnp.sqrt((alpha * gaussian.stds) ** 2 + sigma**2)

        h = 1e-6 * t
        (before, after), (mean, std) = (moments(t - h), moments(t + h)), moments(t)
        mean_rate, std_rate = ((b - a) / (2 * h[:, None]) for a, b in zip(before, after, strict=True))
        expected = mean_rate + (x - mean) * std_rate / std
        np.testing.assert_allclose(velocity(sde, gaussian.denoise(sde)(x, t), t), expected, rtol=1e-5, atol=1e-7)


def test_a_scalar_time_serves_the_batch():
    sde, x = ALL["sub_vp"], jnp.asarray([[0.3, 1.0], [-2.0, 0.5]])
    estimate = GAUSSIAN.denoise(sde)(x, 0.4)
    for field in (velocity(sde, estimate, 0.4), reverse_drift(sde, estimate, x, 0.4), score(sde, estimate, 0.4)):
        assert field.shape == x.shape
    np.testing.assert_allclose(velocity(sde, estimate, 0.4), velocity(sde, estimate, jnp.full(2, 0.4)), rtol=1e-6)
