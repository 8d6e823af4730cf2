"""A denoiser knows its SDE and the cost of its calls. Any other object raises an error that shows the right form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import editing, likelihood, sdes, solvers
from score_sde.denoising.dynamics import Denoise
from score_sde.denoising.estimate import Estimate
from score_sde.denoising.function_denoiser import FunctionDenoiser
from score_sde.denoising.gaussian_mixture import GaussianMixture
from score_sde.internal.pytree import pytree
from tests import ground_truth
from tests.conformance import DETERMINISTIC, SOLVERS, STOCHASTIC

KEY, VP, VE = jax.random.key(0), sdes.VP(), sdes.VE()
MIXTURE = GaussianMixture(*(jnp.asarray(part, jnp.float32) for part in ground_truth.POINTS))
X, GRID = jnp.ones((2, 2)), solvers.grids.Uniform(3, end=0.01)


def plain(x, t):
    return Estimate(x, x)


CALLS = {
    "sample": lambda *model: solvers.sample(KEY, *model, solvers.DDIM(), GRID, (2, 2)),
    "fit_grid": lambda *model: solvers.fit_grid(KEY, *model, solvers.DDIM(), (2, 2)),
    "LogProb": lambda *model: likelihood.LogProb()(KEY, *model, X),
    "example_bits": lambda *model: likelihood.example_bits(KEY, likelihood.LogProb(), *model, X, bin_width=None),
    "encode": lambda *model: editing.encode(*model, X, solvers.Heun(), GRID),
    "decode": lambda *model: editing.decode(*model, X, solvers.Heun(), GRID),
    "round_trip_error": lambda *model: editing.round_trip_error(*model, X, solvers.Heun(), GRID),
    "interpolate": lambda *model: editing.interpolate(*model, X, X, solvers.Heun(), GRID),
    "sdedit": lambda *model: editing.sdedit(KEY, *model, X, solvers.DDIM(), GRID),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_of_the_old_form_and_plain_functions_are_told_the_new_form(name):
    """A denoiser of VP cannot be solved with VE: there is no place for another SDE."""
    form = rf"^{name}\([^)]*denoise[^)]*\)"
    with pytest.raises(TypeError, match=rf"{form}: the denoiser says which SDE .*takes no SDE; got VE. Leave it out"):
        CALLS[name](VE, MIXTURE.denoise(VP))
    with pytest.raises(
        TypeError, match=rf"{form} needs a denoiser that says its SDE, got <function plain.*FunctionDenoiser"
    ):
        CALLS[name](plain)
    with pytest.raises(TypeError, match=rf"{form} needs a denoiser, such as Denoiser\(…\).bind\(params\), got 3"):
        CALLS[name](3)


def test_the_old_form_by_name():
    with pytest.raises(TypeError, match=r"sample\(key, denoise, solver, grid, shape\): the denoiser says which SDE"):
        solvers.sample(KEY, sde=VE, denoise=MIXTURE.denoise(VP), solver=solvers.DDIM(), grid=GRID, shape=(2, 2))


def test_a_function_becomes_a_denoiser():
    """The same samples as of the pytree with the same formulas, with an array of the caller's in it."""
    shift = jnp.asarray(0.2)
    inner = MIXTURE.denoise(VP)

    def shifted(shift, x, t):
        x0, eps = inner(x, t)
        return Estimate(x0 + shift, eps)

    def solve(function):
        return solvers.sample(KEY, FunctionDenoiser(VP, function), solvers.DDIM(), GRID, (3, 2)).x

    closure = solve(lambda x, t: shifted(shift, x, t))
    np.testing.assert_allclose(solve(jax.tree_util.Partial(shifted, shift)), closure, atol=1e-6)
    assert np.abs(closure - solvers.sample(KEY, inner, solvers.DDIM(), GRID, (3, 2)).x).max() > 1e-3
    with pytest.raises(
        ValueError, match=r"FunctionDenoiser\(sde, function\) needs .* evaluations_per_call >= 0, got .* -1"
    ):
        FunctionDenoiser(VP, plain, -1)


class Plain(Denoise):
    """No pytree."""

    sde = VP

    def __call__(self, x, t):
        return MIXTURE.denoise(VP)(x, t)


def test_a_denoiser_that_is_no_pytree_is_part_of_the_program():
    ours, theirs = (solvers.sample(KEY, each, solvers.Heun(), GRID, (3, 2)) for each in (Plain(), MIXTURE.denoise(VP)))
    np.testing.assert_allclose(ours.x, theirs.x, rtol=1e-5)
    np.testing.assert_array_equal(ours.nfe, theirs.nfe)


@pytree
class Interval(Denoise):
    """Costs two evaluations where t is in [low, high], else one, as guidance in an interval does."""

    inner: Denoise
    low: float
    high: float

    @property
    def sde(self):
        return self.inner.sde

    def __call__(self, x, t):
        return self.inner(x, t)

    def evaluations(self, t):
        t = jnp.asarray(t)
        return jnp.where((self.low <= t) & (t <= self.high), 2, 1).astype(jnp.int32)


EVERY = SOLVERS | DETERMINISTIC | STOCHASTIC
ADAPTIVE = ("probability_flow", "dpm_solver_12", "dpm_solver_23")
STEPS = solvers.grids.Uniform(6, 0.99, 0.01, to_zero=True)


@pytest.mark.few(12)
@pytest.mark.parametrize("name", EVERY)
def test_a_call_that_costs_two_counts_two(name):
    """Twice the evaluations where all calls cost two, and between once and twice where only some do."""
    grid = solvers.grids.Uniform(1, end=0.01) if name in ADAPTIVE else STEPS
    if name == "restart":
        grid = solvers.grids.WithRestarts(STEPS, solvers.grids.Uniform(2), 0.3, 0.6)
    once, some, twice = (
        np.asarray(solvers.sample(KEY, Interval(MIXTURE.denoise(VP), *ends), EVERY[name], grid, (2, 2)).nfe)
        for ends in ((2.0, 3.0), (0.4, 0.75), (-1.0, 2.0))
    )
    np.testing.assert_array_equal(twice, 2 * once)
    assert np.all(some >= once) and np.all(some <= twice)
    if name not in ADAPTIVE:
        assert np.all(some > once) and np.all(some < twice)
