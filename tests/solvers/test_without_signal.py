"""Solves from t_max of the SDEs with α = 0 there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sdes, solvers
from score_sde.denoising.dynamics import Denoise
from score_sde.denoising.parameterizations import Parameterization
from score_sde.internal.pytree import pytree
from score_sde.solvers import sample
from tests.conformance import PARAMETERIZATIONS

KEY = jax.random.key(3)
FULL, BELOW = (solvers.grids.Uniform(4, start=start, end=0.1, to_zero=True) for start in (None, 0.999))


@pytree
class Constant(Denoise):
    """A denoiser with x̂0 = 0.7, through a parameterization."""

    parameterization: Parameterization
    sde: sdes.SDE

    def __call__(self, x, t):
        alpha, sigma = self.sde.marginal(t)
        x0 = jnp.full_like(x, 0.7)
        output = self.parameterization.target(x0, (x - alpha * x0) / sigma, t, self.sde)
        return self.parameterization.decode(output, x, t, self.sde)


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("name", "sde"),
    [(name, sdes.Flow()) for name in ("eps", "score", "scaled_score")]
    + [("eps", sdes.Cosine()), ("eps", sdes.Decay()), ("eps", sdes.Cosine(offset=0.008))],
)
def test_a_start_where_x0_cannot_be_known_is_an_error(name, sde):
    """At α = 0 ε̂ and the score leave x0 open: NaN there is an error that says what to do, and not a sample."""
    args = KEY, Constant(PARAMETERIZATIONS[name], sde), solvers.DDIM()
    match = (
        rf"grid has t=1.0, where {type(sde).__name__} has α = 0\. There x0 cannot be read from eps, score or .* v, flow"
    )
    with pytest.raises(ValueError, match=match):
        sample(*args, FULL, (2, 3))
    np.testing.assert_allclose(sample(*args, BELOW, (2, 3)).x, 0.7, rtol=1e-4)
    with pytest.raises(ValueError, match=r"start the grid below, as in Uniform\(start=0.999\)"):
        sample(*args[:2], solvers.Heun(), solvers.grids.Upward(solvers.grids.Uniform(4, end=0.1)), (2, 3))


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("name", "sde"), [(name, sdes.Flow()) for name in ("v", "flow", "edm", "x0")] + [("v", sdes.Cosine())]
)
def test_a_start_where_x0_is_read_without_signal(name, sde):
    x = sample(KEY, Constant(PARAMETERIZATIONS[name], sde), solvers.DDIM(), FULL, (2, 3)).x
    np.testing.assert_allclose(x, 0.7, rtol=1e-4)


def test_a_solver_that_asks_only_for_eps_starts_without_signal():
    """`ReverseDiffusion` never looks at x̂0."""
    grid, denoise = solvers.grids.Uniform(50, end=0.01), Constant(PARAMETERIZATIONS["eps"], sdes.Flow())
    x = sample(KEY, denoise, solvers.ReverseDiffusion(), grid, (100, 3)).x
    assert abs(float(x.mean()) - 0.7) < 0.1
