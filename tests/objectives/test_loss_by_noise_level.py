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


@pytest.mark.few(4)
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


def of_nothing():
    """A network that says ε̂ = 0, and its parameters."""
    denoiser = Denoiser(sdes.VP(), Epsilon(), MLP(width=4, depth=1))
    params = jax.eval_shape(lambda: denoiser.init(jax.random.key(0), {"x": jnp.zeros((1, 1))}))
    return denoiser, jax.tree.map(lambda p: jnp.zeros(p.shape), params)


def test_every_example_and_every_level_has_noise_of_its_own():
    """On data of one dimension the error is ε² itself."""
    denoiser, params = of_nothing()
    measured = NoiseLevelLoss(denoiser, np.linspace(0.1, 1.0, 600))
    batch = {"x": jnp.zeros((1000, 1)), "index": jnp.arange(1000), "condition": {}}
    squares = np.asarray(measured._errors(jax.random.key(1), params, batch))
    assert abs(squares.mean() - 1) < 5 * np.sqrt(2 / squares.size)
    assert_all_independent(squares[:5].T)  # five levels, over the examples
    assert_all_independent(squares[:, :5])  # five examples, over the levels


def test_padding_does_not_count_and_the_error_is_that_of_the_mean():
    """As above, of 50 and 30 examples in batches of 50."""
    denoiser, params = of_nothing()
    measured = NoiseLevelLoss(denoiser, np.linspace(0.1, 1.0, 4))
    batches = [
        {
            "x": jnp.zeros((50, 1)),
            "index": 50 * part + jnp.arange(50),
            "is_real": jnp.arange(50) < real,
            "condition": {},
        }
        for part, real in enumerate((50, 30))
    ]
    of_batches = [np.asarray(measured._errors(jax.random.key(1), params, batch)) for batch in batches]
    squares = np.concatenate([of_batches[0], of_batches[1][:, :30]], axis=1)
    found = measured(jax.random.key(1), params, batches)
    assert found.num_examples == 80
    np.testing.assert_allclose(found.mean, squares.mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(found.standard_error, squares.std(axis=1) / np.sqrt(80), rtol=1e-4)
