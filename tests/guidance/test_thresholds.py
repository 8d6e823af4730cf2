"""Thresholding: x̂0 kept within the range of the data."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sdes, solvers
from score_sde.denoising.estimate import Estimate
from score_sde.denoising.function_denoiser import FunctionDenoiser
from score_sde.denoising.gaussian_mixture import GaussianMixture
from score_sde.guidance import DynamicThreshold, Threshold
from score_sde.internal.broadcast import expand_like
from score_sde.solvers import sample
from tests.solvers.test_sample import compilations

KEY = jax.random.key(6)
VP = sdes.VP()


def constant(value, x, t):
    alpha, sigma = (expand_like(c, x) for c in VP.marginal(jnp.asarray(t)))
    x0 = jnp.broadcast_to(value, x.shape)
    return Estimate(x0, (x - alpha * x0) / sigma)


def test_thresholds():
    x0, t = jnp.asarray([[0.5, -3.0, 2.0, 0.1], [0.2, -0.4, 0.1, 0.0]]), jnp.asarray(0.4)
    x = jnp.ones((2, 4))
    inner = FunctionDenoiser(VP, functools.partial(constant, x0))
    static = Threshold().wrap(inner, {})(x, t)
    np.testing.assert_allclose(static.x0, jnp.clip(x0, -1, 1))
    dynamic = DynamicThreshold(1.0).wrap(inner, {})(x, t)
    np.testing.assert_allclose(dynamic.x0, jnp.stack([x0[0] / 3, x0[1]]), rtol=1e-6)
    half = DynamicThreshold(0.5).wrap(inner, {})(
        x, t
    )  # the median of |x̂0| is 1.25 in the first, below the limit in the second
    np.testing.assert_allclose(half.x0, jnp.stack([jnp.clip(x0[0] / 1.25, -1, 1), x0[1]]), rtol=1e-6)
    for estimate in (static, dynamic, half):
        np.testing.assert_allclose(VP.alpha(t) * estimate.x0 + VP.sigma(t) * estimate.eps, x, rtol=1e-5)
    per_image = Threshold().wrap(inner, {})(x, jnp.asarray([0.4, 0.4]))
    np.testing.assert_allclose(per_image.x0, static.x0)
    with pytest.raises(ValueError, match="Threshold needs limit > 0, got limit=0.0"):
        Threshold(0.0)
    with pytest.raises(
        ValueError, match="DynamicThreshold needs 0 < percentile <= 1 and limit > 0, got percentile=99.5"
    ):
        DynamicThreshold(99.5)


@pytest.mark.parametrize(
    "call",
    [
        lambda denoise: Threshold(denoise, VP),
        lambda denoise: Threshold(denoise, 1.0),
        lambda denoise: Threshold(limit=denoise),
        lambda denoise: DynamicThreshold(denoise, 0.99, 1.0),
        lambda denoise: DynamicThreshold(denoise, VP, 0.99),
    ],
)
def test_the_call_of_an_earlier_version_says_what_to_write(call):
    for denoise in (FunctionDenoiser(VP, functools.partial(constant, 1.0)), lambda x, t: x):
        with pytest.raises(
            TypeError, match=r"Threshold holds settings and no denoiser, got .*; write guide\(denoise, \("
        ):
            call(denoise)


def test_thresholds_in_a_solve():
    """Samples of a density beyond the limit end at it, with any solver, and new limits compile nothing."""
    wide = GaussianMixture(jnp.ones(1), jnp.asarray([[3.0, 0.0]]), 0.1 * jnp.ones((1, 2)))

    def draw(limit):
        denoise = Threshold(limit).wrap(wide.denoise(VP), {})
        grid = solvers.grids.Uniform(10, end=0.01, to_zero=True)
        return sample(KEY, denoise, solvers.DDIM(), grid, (3, 2)).x

    assert np.abs(draw(1.0)).max() <= 1 + 1e-6
    with compilations() as seen:
        assert abs(np.asarray(draw(2.0)).max() - 2) < 1e-5
    assert not seen
