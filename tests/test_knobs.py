"""Settings away from their neutral values: the effect of each one, by hand or in closed form."""

import jax
import jax.numpy as jnp
import numpy as np

from score_sde import editing, sdes, solvers
from score_sde.denoising.estimate import Estimate
from score_sde.denoising.gaussian_mixture import GaussianMixture
from score_sde.denoising.parameterizations import LogSigmaLabel
from score_sde.guidance.dynamic_threshold import DynamicThreshold
from score_sde.networks import resample
from score_sde.objectives.time_samplers import LikelihoodImportance

VP = sdes.VP()


def close(found, expected, tolerance=1e-6):
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def test_dynamic_threshold_scales_into_its_limit():
    """The third quartiles of |x̂0| are 4, above the limit 2, and 1.9, below it. On Flow at t = 0.25, α/σ = 3."""
    x0 = jnp.asarray([[0.0, 1.0, -3.0, 4.0, 8.0], [0.5, -1.0, 1.5, -1.9, 6.0]])
    expected = np.asarray([[0.0, 0.5, -1.5, 2.0, 2.0], [0.5, -1.0, 1.5, -1.9, 2.0]])
    eps = jnp.ones_like(x0)
    changed = DynamicThreshold(percentile=0.75, limit=2.0).change(
        sdes.Flow(), 0.75 * x0 + 0.25 * eps, jnp.asarray(0.25), Estimate(x0, eps)
    )
    close(changed.x0, expected)
    close(changed.eps, 1 + 3 * (np.asarray(x0) - expected))


def test_log_sigma_label_has_scale_and_gain():
    """On Flow σ/α = t/(1 − t). The limit holds for σ/α, not for gain · σ/α."""
    label = LogSigmaLabel(scale=2.0, gain=3.0, limit=1.5)
    t = jnp.asarray([0.2, 0.75, 1.0, 0.0])
    close(label(sdes.Flow(), t), [2 * np.log(0.75), 2 * np.log(9), 2 * (1.5 + np.log(3)), 2 * (np.log(3) - 1.5)])


def impulse(size, place):
    return jnp.zeros((1, size, 1)).at[0, place, 0].set(1.0)


def test_asymmetric_taps_filter_in_their_order():
    """An impulse leaves the taps as they are written, as `upfirdn` has it; downsampling keeps every second value."""
    taps = (1, 3, 2)
    close(resample.downsample(impulse(8, 2), taps)[0, :, 0] * 6, [0, 3, 0, 0])
    close(resample.downsample(impulse(8, 3), taps)[0, :, 0] * 6, [0, 1, 2, 0])
    close(resample.upsample(impulse(4, 1), taps)[0, :, 0] * 3, [0, 0, 1, 3, 2, 0, 0, 0])
    close(resample.blur(impulse(5, 1), taps, width=3)[0, :, 0] * 6, [0, 1, 3, 2, 0, 0])
    both = resample.upsample(jnp.ones((1, 1, 1, 1)), taps)[0, :, :, 0]
    close(both * 9, np.outer([1, 3], [1, 3]))


def vp_log_snr(t):
    """λ of VP, with β from 0.1 to 20, in float64."""
    log_alpha = -0.25 * t**2 * 19.9 - 0.05 * t
    return 2 * log_alpha - np.log(-np.expm1(2 * log_alpha))


def test_importance_sampling_starts_at_t_min():
    """λ is uniform between λ(0.2) and λ(1); the weights make means over t uniform on (0.2, 1)."""
    number, t_min = 40_000, 0.2
    sampler = LikelihoodImportance(t_min=t_min)
    sampler.check(VP)
    t, weight = (np.asarray(part) for part in sampler(jax.random.key(3), VP, number))
    assert t.min() >= np.float32(t_min) and t.max() <= 1
    edges = np.linspace(t_min, 1, 11)
    share = np.diff(-vp_log_snr(edges)) / (vp_log_snr(t_min) - vp_log_snr(1.0))
    found = np.histogram(t.astype(np.float64), np.concatenate([[t_min - 1e-6], edges[1:]]))[0] / number
    assert np.all(np.abs(found - share) < 4 * np.sqrt(share * (1 - share) / number))
    step = 1e-4
    density = -(vp_log_snr(t + step) - vp_log_snr(t - step)) / (2 * step)
    density /= vp_log_snr(t_min) - vp_log_snr(1.0)
    close(weight, 1 / (1 - t_min) / density, 1e-3)
    for values, mean in ((weight, 1.0), (weight * t, 0.6)):
        assert abs(values.mean() - mean) < 4 * values.std() / np.sqrt(number)


def test_inversion_ends_where_its_grid_ends():
    """For N(m, s²) the flow keeps u in x = α m + √(α² s² + σ²) u: it goes from t = 0.3 to 1, and back to 0.3."""
    mean, std, end = 0.7, 0.6, 0.3
    denoise = GaussianMixture(jnp.ones(1), jnp.full((1, 1), mean), jnp.full((1, 1), std)).denoise(VP)
    x0 = np.asarray([[-1.0], [0.5], [2.0]], np.float32)
    (low, low_noise), (high, high_noise) = (map(float, VP.marginal(t)) for t in (end, 1.0))
    low_std, high_std = np.hypot(low * std, low_noise), np.hypot(high * std, high_noise)
    solver, grid = solvers.Heun(), solvers.grids.EDMRho(60, end=end, to_zero=False)
    latent = editing.encode(denoise, x0, solver, grid).x
    close(latent, high * mean + high_std * low * (x0 - mean) / low_std, 3e-3)
    u = np.asarray([[-1.5], [0.2], [1.0]], np.float32)
    decoded = editing.decode(denoise, jnp.asarray(high * mean + high_std * u), solver, grid).x
    close(decoded, mean + low_std * u / low, 3e-3)
    close(editing.decode(denoise, latent, solver, grid).x, x0, 3e-3)


def test_slerp_at_half_a_radian():
    """Of one length it turns by u θ; of two lengths it is the sum of the two arcs."""
    fractions = np.asarray([0.0, 0.25, 0.5, 0.9, 1.0])
    turned = np.stack([np.cos(0.5 * fractions), np.sin(0.5 * fractions)], axis=1)
    first, second = np.asarray([1.0, 0.0]), np.asarray([np.cos(0.5), np.sin(0.5)])
    path = editing.slerp(jnp.asarray(3 * first), jnp.asarray(3 * second), jnp.asarray(fractions))
    close(path, 3 * turned, 2e-6)
    path = editing.slerp(jnp.asarray(2 * first), jnp.asarray(5 * second), jnp.asarray(fractions))
    shares = np.stack([np.sin(0.5 * (1 - fractions)), np.sin(0.5 * fractions)], axis=1) / np.sin(0.5)
    close(path, shares @ np.stack([2 * first, 5 * second]), 4e-6)


def test_sigmoid_grid_goes_to_uniform():
    """At k = 0 to the rounding of both; a small k is off by at most k²/100."""
    uniform = solvers.grids.Uniform(10, end=0.1).times(VP)
    for k in (0.0, 1e-30, 1e-12, 1e-8, 1e-5, 1e-4):
        close(solvers.grids.Sigmoid(10, end=0.1, k=k).times(VP), uniform, 2e-7)
    u = np.linspace(0, 1, 11)
    for k in (0.5, 3.0, 12.0):
        raw = 1 / (1 + np.exp(-k * (2 * u - 1)))
        v = (raw - raw[0]) / (raw[-1] - raw[0])
        close(solvers.grids.Sigmoid(10, end=0.1, k=k).times(VP), 1 - 0.9 * v, 3e-7)
