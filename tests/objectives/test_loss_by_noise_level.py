"""The loss by noise level: its levels and its noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sdes
from score_sde.denoising.denoiser import Denoiser
from score_sde.denoising.parameterizations import Epsilon
from score_sde.networks import MLP
from score_sde.objectives.loss_by_noise_level import NoiseLevelLoss, noise_levels
from tests.conformance import SDES
from tests.independence import assert_all_independent


@pytest.mark.parametrize("name", SDES)
def test_noise_levels_are_uniform_in_log_snr_within_the_sde(name):
    sde = SDES[name]
    times = noise_levels(sde, 7)
    assert np.all((times > 0) & (times <= sde.t_max))
    assert np.all(np.diff(times) > 0)
    log_snr = np.asarray(sde.log_snr(jnp.asarray(times)))
    np.testing.assert_allclose(np.diff(log_snr), (log_snr[-1] - log_snr[0]) / 6, rtol=5e-3)


def test_noise_levels_end_where_the_sde_ends():
    """VE from σ = 0.05 to 20: λ from 6 to −6, not 8 to −8."""
    levels = noise_levels(sdes.VE(sigma_min=0.05, sigma_max=20.0), 5)
    np.testing.assert_allclose(levels, [0.0, 0.25, 0.5, 0.75, 1.0], atol=1e-6)
    np.testing.assert_allclose(
        sdes.VP().log_snr(jnp.asarray(noise_levels(sdes.VP(), 3, -2.0, 4.0))), [4, 1, -2], atol=1e-4
    )


def test_every_example_and_every_level_has_noise_of_its_own():
    """A network that says ε̂ = 0 on data of one dimension has the error ε² itself."""
    network, x0 = MLP(width=4, depth=1), jnp.zeros((1000, 1))
    denoiser, index = Denoiser(sdes.VP(), Epsilon(), network), jnp.arange(1000)
    params = jax.eval_shape(lambda: denoiser.init(jax.random.key(0), {"x": x0}))
    nothing = jax.tree.map(lambda p: jnp.zeros(p.shape), params)
    levels = np.linspace(0.1, 1.0, 600)
    measured = NoiseLevelLoss(denoiser, levels)
    squares = np.asarray(measured._errors(jax.random.key(1), nothing, {"x": x0, "index": index, "condition": {}}))
    assert abs(squares.mean() - 1) < 5 * np.sqrt(2 / squares.size)
    assert_all_independent(squares[:5].T)  # five levels, over the examples
    assert_all_independent(squares[:, :5])  # five examples, over the levels
    part = measured(jax.random.key(1), nothing, [{"x": x0[:50], "index": index[:50], "condition": {}}])
    np.testing.assert_allclose(part.mean, squares[:, :50].mean(axis=1), rtol=1e-5)
