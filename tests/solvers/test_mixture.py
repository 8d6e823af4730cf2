"""`sample` itself, from the prior, on an exact mixture: every SDE × solver draws the right mean and covariance."""

import jax
import jax.numpy as jnp
import pytest

from score_sde.denoising.dynamics import Denoise
from score_sde.denoising.gaussian_mixture import GaussianMixture
from score_sde.denoising.parameterizations import Parameterization
from score_sde.internal.pytree import pytree
from score_sde.sdes.base import SDE
from score_sde.solvers import sample
from tests import ground_truth
from tests.conformance import GRIDS, PARAMETERIZATIONS, SDES, SOLVERS
from tests.covering import covering
from tests.solvers.chosen import chosen

NUMBER = 2000


@pytree
class Through(Denoise):
    """The exact denoiser as a network of `parameterization` would give it: the target is the output, which is decoded."""

    mixture: GaussianMixture
    sde: SDE
    parameterization: Parameterization

    def __call__(self, x, t):
        exact = self.mixture.denoise(self.sde)(x, t)
        output = self.parameterization.target(exact.x0, exact.eps, t, self.sde)
        return self.parameterization.decode(output, x, t, self.sde)


STEPS = {"probability_flow": 1, "heun": 40, "edm_heun": 40, "edm_heun_midpoint": 40}
# On top of the standard error: what 120 steps of order 1 and the prior at t_max leave.
ALLOWANCE = 0.1


@pytest.fixture(scope="module")
def mixture():
    return GaussianMixture(*(jnp.asarray(part, jnp.float32) for part in ground_truth.POINTS))


@pytest.mark.few(2)
@pytest.mark.parametrize(("name", "sde_name"), covering(SOLVERS, SDES, times=1))  # test_gaussian has more
def test_mean_and_covariance(name, sde_name, mixture):
    sde, steps = SDES[sde_name], STEPS.get(name, 120)
    kinds = ["edm_rho"] if sde_name == "edm" else list(GRIDS)  # uniform steps are too long for EDM: test_gaussian
    kind = kinds[(list(SDES).index(sde_name) + list(SOLVERS).index(name)) % len(kinds)]
    grid = GRIDS[kind](sde, steps, name == "denoise_last")
    shape = (NUMBER, 2)
    samples = sample(jax.random.key(0), mixture.denoise(chosen(sde_name)), SOLVERS[name], grid, shape)
    end = grid.times(sde)[-1]
    alpha, sigma = (1.0, 0.0) if name == "denoise_last" else (float(v) for v in sde.marginal(jnp.asarray(end)))
    mean_error, covariance_error = ground_truth.moment_errors(
        samples.x, *ground_truth.POINTS.moments(alpha, sigma), ALLOWANCE
    )
    assert max(mean_error, covariance_error) < 4, (kind, mean_error, covariance_error)


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in ("eps", "edm", "flow") else pytest.mark.slow) for n in PARAMETERIZATIONS]
)
def test_every_parameterization_draws_the_same_law(name, mixture):
    """From t_max, or 0.99 of it where the signal is gone there; the solver takes x̂0 and ε̂ both.

    A solver sees nothing of a parameterization but its estimate, which is that of every other (test_parameterizations), so
    one solver and one grid stand for all of them here.
    """
    for sde_name in SDES:
        sde = chosen(sde_name)
        denoise = Through(mixture, sde, PARAMETERIZATIONS[name])
        grid = GRIDS["edm_rho"](SDES[sde_name], 40)
        end = jnp.asarray(grid.times(sde)[-1])
        samples = sample(jax.random.key(1), denoise, SOLVERS["heun"], grid, (NUMBER, 2))
        moments = ground_truth.POINTS.moments(*(float(value) for value in sde.marginal(end)))
        errors = ground_truth.moment_errors(samples.x, *moments, 0.02)
        assert max(errors) < 4, (sde_name, errors)
