"""A new SDE in eight lines, outside of the package, through all code that is shared by SDEs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.denoising import parameterizations
from score_sde.denoising.dynamics import reverse_drift, score, velocity
from score_sde.denoising.gaussian_mixture import GaussianMixture
from score_sde.internal.pytree import pytree
from score_sde.sdes import SDE


@pytree
class PolynomialVP(SDE):
    """α² = exp(−∫β), σ² = 1 − α², with β(t) = rate (1 + power) t^power."""

    rate: float = 12.0
    power: float = 2.0

    def log_alpha(self, t):
        return -0.5 * self.rate * jnp.asarray(t) ** (1 + self.power)

    def sigma(self, t):
        return jnp.sqrt(-jnp.expm1(2 * self.log_alpha(t)))


@pytree
class Rectified(SDE):
    """α = 1 − t (1 − least), σ = least + t (1 − least): neither variance-preserving nor starting at σ = 0."""

    least: float = 1e-3

    def log_alpha(self, t):
        return jnp.log1p(-jnp.asarray(t) * (1 - self.least))

    def sigma(self, t):
        return self.least + jnp.asarray(t) * (1 - self.least)


OWN = [PolynomialVP(), Rectified()]
own_sde = pytest.mark.parametrize("sde", OWN, ids=lambda sde: type(sde).__name__)
MIXTURE = GaussianMixture(
    jnp.asarray([0.3, 0.7]), jnp.asarray([[-1.0, 0.5], [0.8, -0.2]]), jnp.asarray([[0.2, 0.3], [0.1, 0.4]])
)


def test_its_drift_and_diffusion():
    with jax.enable_x64(True):
        t = jnp.linspace(0.05, 1.0, 9)
        np.testing.assert_allclose(OWN[0].drift(t), -0.5 * 36 * t**2, rtol=1e-12)
        np.testing.assert_allclose(OWN[0].diffusion(t), 6 * t, rtol=1e-12)
        a = 1 - 1e-3
        alpha, sigma = 1 - a * t, 1e-3 + a * t
        np.testing.assert_allclose(OWN[1].drift(t), -a / alpha, rtol=1e-12)
        np.testing.assert_allclose(OWN[1].diffusion(t) ** 2, 2 * sigma * (a + a * sigma / alpha), rtol=1e-12)


@own_sde
def test_its_log_snr_is_inverted_and_its_transitions_compose(sde):
    with jax.enable_x64(True):
        t = jnp.linspace(0.02, 1.0, 30)
        np.testing.assert_allclose(sde.time_of_log_snr(sde.log_snr(t)), t, rtol=1e-11)
        s, u = 0.3 * t, 0.7 * t
        first, second, whole = sde.transition(s, u), sde.transition(u, t), sde.transition(s, t)
        np.testing.assert_allclose(whole.std**2, second.scale**2 * first.std**2 + second.std**2, rtol=1e-10)


@own_sde
@pytest.mark.parametrize("order", [1, 2])
def test_the_probability_flow_reaches_the_data(sde, order):
    """DDIM's update x_s = α_s x̂0 + σ_s ε̂ falls by 2 per halved step, Heun's on `velocity` by 4."""
    denoise = MIXTURE.denoise(sde)
    x_start = sde.sample_prior(jax.random.key(0), (16, 2))

    def solve(num_steps):
        grid = jnp.linspace(0.9, 0.1, num_steps + 1)

        def ddim(x, ends):
            t, s = ends
            x0, eps = denoise(x, t)
            return sde.alpha(s) * x0 + sde.sigma(s) * eps, None

        def heun(x, ends):
            t, s = ends
            first = velocity(sde, denoise(x, t), t)
            second = velocity(sde, denoise(x + (s - t) * first, s), s)
            return x + 0.5 * (s - t) * (first + second), None

        return jax.lax.scan(ddim if order == 1 else heun, x_start, (grid[:-1], grid[1:]))[0]

    solve = jax.jit(solve, static_argnums=0)
    fine = solve(2048)
    errors = [float(jnp.sqrt(jnp.mean((solve(n) - fine) ** 2))) for n in (64, 128)]
    assert 0.7 * 2**order < errors[0] / errors[1] < 1.4 * 2**order


@own_sde
@pytest.mark.parametrize("name", parameterizations.PARAMETERIZATIONS)
def test_every_parameterization_reads_it(sde, name):
    parameterization = parameterizations.PARAMETERIZATIONS[name]()
    t = jnp.asarray([0.1, 0.5, 0.9])
    x0 = jnp.asarray([[0.5], [-1.0], [2.0]])
    x, eps = sde.perturb(jax.random.key(1), x0, t)
    output = parameterization.target(x0, eps, t, sde)
    estimate = jax.jit(parameterization.decode)(output, x, t, sde)
    np.testing.assert_allclose(estimate.x0, x0, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(estimate.eps, eps, rtol=1e-3, atol=1e-3)


@own_sde
def test_its_exact_score_drives_both_dynamics(sde):
    """Probability flow and reverse SDE differ by half of g² score."""
    x = jax.random.normal(jax.random.key(2), (5, 2))

    @jax.jit
    def fields(sde, x):
        t = jnp.full((5,), 0.4)
        estimate = MIXTURE.denoise(sde)(x, t)
        autodiff = jax.grad(lambda x: jnp.sum(MIXTURE.log_prob(x, sde, t)))(x)
        flow, reverse = velocity(sde, estimate, t), reverse_drift(sde, estimate, x, t)
        return autodiff, score(sde, estimate, t), flow - 0.5 * sde.diffusion(0.4) ** 2 * autodiff, reverse

    autodiff, ours, expected, reverse = fields(sde, x)
    np.testing.assert_allclose(ours, autodiff, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(reverse, expected, rtol=1e-3, atol=1e-3)
