"""The exact mixture: its density, score and moments, against autodiff, samples and numbers made elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sdes
from score_sde.denoising.dynamics import score
from score_sde.denoising.gaussian_mixture import GaussianMixture
from tests.sdes.peers import ALL, load

WEIGHTS = np.array([0.2, 0.5, 0.3])
MEANS = np.array([[-1.0, 0.5], [0.8, -0.2], [0.1, 2.0]])
STDS = np.array([[0.2, 0.3], [0.1, 0.4], [0.5, 0.05]])


def mixture(dtype=np.float32):
    return GaussianMixture(*(jnp.asarray(a, dtype) for a in (WEIGHTS, MEANS, STDS)))


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def plain_log_prob(x, alpha, sigma):
    """log Σ_k w_k N(x; α μ_k, α² s_k² + σ²), summed as it stands."""
    variances = (alpha * STDS) ** 2 + sigma**2
    squares = (x[:, None] - alpha * MEANS) ** 2 / variances
    return np.log(np.sum(WEIGHTS * np.prod(np.exp(-squares / 2) / np.sqrt(2 * np.pi * variances), axis=2), axis=1))


@pytest.mark.parametrize("name", ALL)
def test_log_prob_score_and_posterior_means(x64, name):
    """log p_t is the sum over components, −ε̂/σ its gradient, and α x̂0 + σ ε̂ = x."""
    sde, exact = ALL[name], mixture(np.float64)
    t = jnp.asarray([0.02, 0.3, 0.7, 0.7]) * sde.t_max
    x = jnp.asarray([[0.3, -0.1], [1.0, 0.5], [-0.4, 2.0], [2.0, 1.0]])
    alpha, sigma = sde.alpha(t)[:, None], sde.sigma(t)[:, None]
    expected = [plain_log_prob(*(np.asarray(a[i : i + 1]) for a in (x, alpha, sigma)))[0] for i in range(4)]
    np.testing.assert_allclose(exact.log_prob(x, sde, t), expected, rtol=1e-11)
    estimate = exact.denoise(sde)(x, t)
    gradient = jax.grad(lambda x: jnp.sum(exact.log_prob(x, sde, t)))(x)
    np.testing.assert_allclose(score(sde, estimate, t), gradient, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(alpha * estimate.x0 + sigma * estimate.eps, x, rtol=1e-12, atol=1e-12)


def golden_mixture(peer, prefix):
    return GaussianMixture(*(jnp.asarray(peer[f"{prefix}_mix_{part}"]) for part in ("w", "mu", "sd")))


@pytest.mark.parametrize("kind", ["m2", "m64"])
@pytest.mark.parametrize(("name", "sde"), [("vp", sdes.VP()), ("subvp", sdes.SubVP()), ("ve", sdes.VE())])
def test_densities_made_elsewhere(x64, kind, name, sde):
    peer = load("mixtures")
    exact, x = golden_mixture(peer, kind), jnp.asarray(peer[f"{kind}_x"], jnp.float64)
    np.testing.assert_allclose(exact.log_prob(x, sde, 1e-5), peer[f"{kind}_{name}_exact_logp_eps"], rtol=1e-10)
    np.testing.assert_allclose(exact.log_prob(x), peer[f"{kind}_{name}_exact_logp_0"], rtol=1e-12)


def test_denoised_images_made_elsewhere(x64):
    """k-diffusion's VDenoiser around 0.9 times the exact denoiser, at x = x0 + σ z."""
    peer = load("mixtures")
    sde, t = sdes.EDM(sigma_max=1e3), jnp.asarray(peer["kd_sigma"])
    x = jnp.asarray(peer["kd_x0"] + peer["kd_sigma"][:, None, None, None] * peer["kd_noise"]).reshape(8, 64)
    ours = golden_mixture(peer, "kd").denoise(sde)(x, t).x0
    np.testing.assert_allclose(0.9 * ours, peer["kd_v_denoised"].reshape(8, 64), rtol=1e-9, atol=1e-9)


def test_posterior_mean_by_quadrature(x64):
    """E[x0 | x_t] of a 1-D mixture by integrating over x0."""
    exact = GaussianMixture(jnp.asarray([0.4, 0.6]), jnp.asarray([[-1.0], [1.5]]), jnp.asarray([[0.3], [0.6]]))
    sde, t, x = sdes.VP(), 0.35, 0.4
    alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
    x0 = np.linspace(-6, 7, 200_001)
    prior = 0.4 * np.exp(-(((x0 + 1) / 0.3) ** 2) / 2) / 0.3 + 0.6 * np.exp(-(((x0 - 1.5) / 0.6) ** 2) / 2) / 0.6
    weight = prior * np.exp(-(((x - alpha * x0) / sigma) ** 2) / 2)
    expected = np.sum(weight * x0) / np.sum(weight)
    estimate = exact.denoise(sde)(jnp.asarray([[x]]), t)
    assert estimate.x0[0, 0] == pytest.approx(expected, rel=1e-9)
    assert estimate.eps[0, 0] == pytest.approx((x - alpha * expected) / sigma, rel=1e-9)


def test_the_density_without_an_sde_is_that_of_the_data(x64):
    exact = mixture(np.float64)
    x = jnp.asarray([[0.3, -0.1], [1.0, 0.5]])
    np.testing.assert_allclose(exact.log_prob(x), plain_log_prob(np.asarray(x), 1.0, 0.0), rtol=1e-12)
    np.testing.assert_allclose(exact.log_prob(x, sdes.EDM(), 1e-9), exact.log_prob(x), rtol=1e-9)
    side = np.linspace(-4, 5, 601)
    points = jnp.asarray(np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2))
    total = np.sum(np.exp(exact.log_prob(points))) * (side[1] - side[0]) ** 2
    assert total == pytest.approx(1.0, abs=1e-3)


def test_samples_have_its_moments():
    exact = mixture()
    mean, covariance = exact.moments()
    number = 40_000
    x = np.asarray(exact.sample(jax.random.key(0), number), np.float64)
    assert np.all(np.abs(x.mean(0) - mean) < 5 * np.sqrt(np.diag(covariance) / number))
    centred = x - x.mean(0)
    products = centred[:, :, None] * centred[:, None, :]
    error = products.std(0) / np.sqrt(number)
    assert np.all(np.abs(products.mean(0) - covariance) < 5 * error)
    share = np.mean(np.abs(x[:, 1] - 2.0) < 0.2)  # the third component is alone there
    assert abs(share - 0.3) < 5 * np.sqrt(0.3 * 0.7 / number) + 1e-3
    np.testing.assert_array_equal(exact.sample(jax.random.key(0), 3), exact.sample(jax.random.key(0), 3))


def test_images_and_extreme_times_in_float32():
    """Shapes beyond points, a component of width 0, and both ends of time without a NaN."""
    shape = (4, 3, 2)
    generator = np.random.default_rng(0)
    means = jnp.asarray(generator.standard_normal((5, *shape)), jnp.float32)
    exact = GaussianMixture(jnp.full(5, 0.2), means, jnp.zeros_like(means).at[1:].set(0.3))
    assert exact.sample(jax.random.key(0), 7).shape == (7, *shape)
    mean, covariance = exact.moments()
    assert (mean.shape, covariance.shape) == ((24,), (24, 24))
    for sde in (sdes.Flow(), sdes.EDM()):
        t = jnp.asarray([1e-5, 0.5, 1.0]) * sde.t_max
        x, _ = sde.perturb(jax.random.key(1), exact.sample(jax.random.key(2), 3), t)
        estimate = jax.jit(exact.denoise(sde))(x, t)
        assert np.all(np.isfinite(estimate.x0))
        assert np.all(np.isfinite(estimate.eps))
        np.testing.assert_allclose(estimate.x0[2].ravel(), mean, atol=0.05 if sde.t_max == 1 else 1.0)


def test_new_numbers_compile_nothing_again():
    traces = []

    @jax.jit
    def apply(denoise, x):
        traces.append(None)
        return denoise(x, 0.3).x0

    x = jnp.zeros((2, 2))
    first = apply(mixture().denoise(sdes.VP()), x)
    mirrored = GaussianMixture(*(jnp.asarray(a, np.float32) for a in (WEIGHTS, -MEANS, STDS)))
    second = apply(mirrored.denoise(sdes.VP()), x)
    assert not np.array_equal(first, second)
    assert len(traces) == 1


REFUSED = {
    "sum": ((np.array([0.5, 0.4]), np.zeros((2, 3)), np.ones((2, 3))), r"with sum 0\.[89]"),
    "negative weight": ((np.array([1.5, -0.5]), np.zeros((2, 3)), np.ones((2, 3))), r"weights \(2,\) >= -0\.5"),
    "shapes": ((np.array([0.5, 0.5]), np.zeros((2, 3)), np.ones((2, 2))), r"means \(2, 3\), stds \(2, 2\)"),
    "number": ((np.array([1.0]), np.zeros((2, 3)), np.ones((2, 3))), r"weights \(1,\) .* means \(2, 3\)"),
    "points": ((np.array([0.5, 0.5]), np.zeros(2), np.ones(2)), r"means \(2,\)"),
    "negative std": ((np.array([1.0]), np.zeros((1, 3)), -np.ones((1, 3))), r"stds \(1, 3\) >= -1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_mixture_is_refused(name):
    """Where the hook of the tests checks shapes it is first; the message below is what production shows."""
    arrays, message = REFUSED[name]
    with pytest.raises(ValueError, match="GaussianMixture needs weights .* that sum to 1.*" + message):
        GaussianMixture.__post_init__(_unchecked(*(jnp.asarray(a, jnp.float32) for a in arrays)))


def _unchecked(*arrays):
    structure = jax.tree.structure(mixture())
    return jax.tree.unflatten(structure, arrays)
