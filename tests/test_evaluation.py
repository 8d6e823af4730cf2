"""Noise levels at which the loss is measured."""

import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sdes
from score_sde.evaluation import noise_levels
from tests.conformance import SDES


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
