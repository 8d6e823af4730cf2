"""Grids: their first and last times, the variable in which they are even, other people's tables, errors."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sdes, solvers
from tests.conformance import GRIDS, SDES
from tests.solvers.grids.test_shaped_grids import TESTED as SHAPED


@pytest.mark.few(2)
@pytest.mark.parametrize("sde_name", SDES)
def test_a_grid_goes_from_its_start_to_its_end(sde_name):
    sde = SDES[sde_name]
    for kind, grid in GRIDS.items():
        for to_zero in (False, True):
            made = grid(sde, 9, to_zero)
            times = made.times(sde)
            assert times.shape == (10,)
            assert times.dtype == np.float32
            assert np.all(np.diff(times) < 0), kind
            if kind != "given":
                assert times[0] == np.float32(made.start)
                assert times[-2 if to_zero else -1] == np.float32(made.end)
            assert not to_zero or times[-1] == 0


def even(sde, values):
    """Whether the steps of a quantity are of one size."""
    steps = np.diff(np.asarray(values, np.float64))
    return np.allclose(steps, steps.mean(), rtol=1e-6)


def test_what_is_even():
    with jax.enable_x64(True):
        for sde_name in ("vp", "sub_vp", "ve", "edm", "log_snr"):
            sde = SDES[sde_name]
            times = {kind: jnp.asarray(grid(sde, 20).times(sde)) for kind, grid in GRIDS.items()}
            assert even(sde, times["uniform"])
            assert even(sde, jnp.sqrt(times["quadratic"]))
            assert even(sde, sde.log_snr(times["log_snr_uniform"]))
            assert even(sde, jnp.exp(-0.5 * sde.log_snr(times["edm_rho"])) ** (1 / 7))


def test_start_defaults_to_t_max():
    assert solvers.grids.Uniform(4).times(sdes.EDM(sigma_max=3.0))[0] == 3.0
    assert solvers.grids.Quadratic(4).times(sdes.Flow())[0] == 1.0


def test_given_takes_lists_and_arrays():
    for table in ([1.0, 0.5, 0.0], (1.0, 0.5, 0.0), np.array([1.0, 0.5, 0.0]), jnp.asarray([1.0, 0.5, 0.0])):
        np.testing.assert_array_equal(solvers.grids.Given(table).times(sdes.VP()), [1.0, 0.5, 0.0])


def test_errors():
    vp = sdes.VP()
    with pytest.raises(ValueError, match="needs num_steps >= 1, got Uniform"):
        solvers.grids.Uniform(0).times(vp)
    with pytest.raises(ValueError, match="needs num_steps >= 2, got EDMRho"):
        solvers.grids.EDMRho(1).times(vp)
    with pytest.raises(ValueError, match=r"needs 0 <= end < start <= t_max=1.0, got start=1.5, end=0.001"):
        solvers.grids.Uniform(5, start=1.5).times(vp)
    with pytest.raises(ValueError, match="0 <= end < start"):
        solvers.grids.Uniform(5, end=-0.1).times(vp)
    with pytest.raises(ValueError, match="0 <= end < start"):
        solvers.grids.Quadratic(5, start=0.2, end=0.3).times(vp)
    with pytest.raises(ValueError, match="needs 0 < end < start"):
        solvers.grids.Uniform(5, end=0.0, to_zero=True).times(vp)
    with pytest.raises(ValueError, match="LogSNRUniform needs a finite log-SNR at both ends, got inf at t=0.0"):
        solvers.grids.LogSNRUniform(5, end=0.0).times(vp)
    with pytest.raises(
        ValueError, match="EDMRho needs a finite log-SNR at both ends, got -inf at t=1.0; set start below"
    ):
        solvers.grids.EDMRho(5).times(sdes.Flow())
    with pytest.raises(ValueError, match="EDMRho needs rho > 0, got rho=0"):
        solvers.grids.EDMRho(rho=0.0)
    with pytest.raises(ValueError, match="needs fewer steps, because some of its times are equal in float32"):
        solvers.grids.Uniform(200_000, start=0.99, end=0.985).times(vp)
    for table in ([1.0], [0.5, 0.5], [0.1, 0.2], [2.0, 1.0], [0.5, -0.1]):
        with pytest.raises(ValueError, match="Given needs at least two times, decreasing from <= 1.0 to >= 0, got"):
            solvers.grids.Given(table).times(vp)


def test_every_grid_of_the_catalogue_is_tested():
    assert set(solvers.grids.GRIDS) == set(GRIDS) | SHAPED
    assert all(dataclasses.is_dataclass(grid) for grid in solvers.grids.GRIDS.values())
