"""Grids of a published shape, restarts, and grids fitted to a model."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sdes, solvers
from score_sde.config import build
from score_sde.denoising.estimate import Estimate
from score_sde.denoising.function_denoiser import FunctionDenoiser
from score_sde.denoising.gaussian_mixture import GaussianMixture
from score_sde.internal.pytree import pytree, static
from score_sde.solvers import grids, sample
from score_sde.solvers.grids import shaped
from tests import ground_truth
from tests.conformance import SDES, start

VP, KEY = sdes.VP(), jax.random.key(2)
SPACED = {
    "shifted": grids.Shifted,
    "sigmoid": grids.Sigmoid,
    "arctan_uniform": grids.ArctanUniform,
    "align_your_steps": grids.AlignYourSteps,
    "poly_exponential": grids.PolyExponential,
    "beta": grids.BetaSpaced,
}
TESTED = {*SPACED, "timesteps", "fitted", "with_restarts", "jumps", "upward"}  # jumps: in guidance/inverse
MIXTURE = GaussianMixture(*(jnp.asarray(part, jnp.float32) for part in ground_truth.POINTS))


@pytest.mark.few(2)
@pytest.mark.parametrize("name", SPACED)
def test_they_go_from_start_to_end_on_every_sde(name):
    # Cosine: λ is inverted by bisection. "beta" takes long to compile.
    for sde_name in ("vp", "flow") if name == "beta" else ("vp", "ve", "edm", "cosine", "flow"):
        sde = SDES[sde_name]
        first, last = float(start(sde)), 1e-3 * float(sde.t_max)
        for to_zero in (False, True):
            times = SPACED[name](num_steps=9, start=first, end=last, to_zero=to_zero).times(sde)
            assert times.shape == (10,), sde_name
            assert np.all(np.diff(times) < 0), sde_name
            assert times[0] == np.float32(first)
            assert times[-2 if to_zero else -1] == np.float32(last)


def test_the_resolution_shift():
    """Stable Diffusion 3's σ: linspace(1, 1/1000, n), shifted, then 0; on Flow it multiplies σ/α by s."""
    with jax.enable_x64(True):
        sigmas = np.linspace(1, 1e-3, 28)
        theirs = np.append(3 * sigmas / (1 + 2 * sigmas), 0.0)
        ours = grids.Shifted(28, end=float(theirs[-2])).times(sdes.Flow())
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
        np.testing.assert_allclose(ours[1:-1] / (1 - ours[1:-1]), 3 * sigmas[1:] / (1 - sigmas[1:]), rtol=1e-12)
        one = grids.Shifted(7, end=0.1, s=1.0, to_zero=False).times(VP)
        np.testing.assert_allclose(one, grids.Uniform(7, end=0.1).times(VP), rtol=1e-12)


def test_sigmoid_is_short_at_both_ends_and_uniform_for_small_k():
    with jax.enable_x64(True):
        steps = -np.diff(grids.Sigmoid(10, end=0.1).times(VP))
        np.testing.assert_allclose(steps, steps[::-1], rtol=1e-9)
        assert np.all(np.diff(steps[:5]) > 0)
        np.testing.assert_allclose(
            grids.Sigmoid(10, end=0.1, k=1e-4).times(VP),
            grids.Uniform(10, end=0.1).times(VP),
            rtol=1e-6,
        )


def test_arctan_is_uniform():
    with jax.enable_x64(True):
        for sde in (VP, sdes.EDM(), sdes.Flow()):
            times = jnp.asarray(grids.ArctanUniform(10, end=0.01).times(sde))
            angles = np.arctan2(sde.sigma(times), sde.alpha(times))
            np.testing.assert_allclose(np.diff(angles), (angles[-1] - angles[0]) / 10, rtol=1e-8)


# arXiv 2404.14507, Table 3, and its authors' code.
PUBLISHED = {
    "sd15": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    "deepfloyd": (160.41, 8.081, 3.315, 1.885, 1.207, 0.785, 0.553, 0.293, 0.186, 0.030, 0.006),
    "svd": (700.00, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}


def test_align_your_steps_is_the_published_table():
    assert PUBLISHED.keys() == shaped.ALIGN_YOUR_STEPS.keys()
    with jax.enable_x64(True):
        for name, table in PUBLISHED.items():
            edm = sdes.EDM(sigma_max=1000.0)
            times = grids.AlignYourSteps(10, table[0], table[-1], name).times(edm)
            np.testing.assert_allclose(times, table, rtol=1e-9)
        # Log-linear interpolation, as its authors do it for other numbers of steps.
        theirs = np.exp(np.interp(np.linspace(0, 1, 18), np.linspace(0, 1, 11), np.log(table)))
        np.testing.assert_allclose(grids.AlignYourSteps(17, table[0], table[-1], name).times(edm), theirs, rtol=1e-9)


@pytest.mark.few(4)
@pytest.mark.parametrize("name", [name for name, grid in grids.GRIDS.items() if hasattr(grid, "between")])
def test_the_times_of_a_traced_sde_are_those_of_a_known_one(name):
    for fields in ({"to_zero": False}, {"to_zero": True}, {"to_zero": True, "num_steps": 2, "start": 0.7}):
        grid = grids.GRIDS[name](**{"num_steps": 7, "end": 0.01, **fields})
        np.testing.assert_allclose(grid.traced_times(VP), grid.times(VP), rtol=1e-6)


def test_poly_exponential_and_beta_in_their_plain_cases():
    """ρ = 1 is uniform in λ, a = b = 1 in σ/α; a = 2, b = 1 has the quantile √u."""
    with jax.enable_x64(True):
        for sde in (VP, sdes.EDM()):
            uniform = grids.LogSNRUniform(9, end=0.01, to_zero=True).times(sde)
            np.testing.assert_allclose(grids.PolyExponential(9, end=0.01).times(sde), uniform, rtol=1e-9)
            even = grids.EDMRho(9, end=0.01, rho=1.0).times(sde)
            np.testing.assert_allclose(grids.BetaSpaced(9, end=0.01, a=1.0, b=1.0).times(sde), even, rtol=1e-9)
        times = grids.BetaSpaced(9, end=1.0, a=2.0, b=1.0).times(sdes.EDM(sigma_max=9.0))
        np.testing.assert_allclose(times[:-1], 1 + 8 * np.sqrt(np.linspace(1, 0, 9)), rtol=1e-9)


def test_timesteps():
    """Lin et al., Table 2: ten of a thousand."""
    made = {spacing: grids.TimestepSpacing(10, spacing).timesteps() for spacing in grids.TimestepSpacing.SPACINGS}
    np.testing.assert_array_equal(made["leading"], 100 * np.arange(9, -1, -1))
    np.testing.assert_array_equal(made["linspace"], [999, 888, 777, 666, 555, 444, 333, 222, 111, 0])
    np.testing.assert_array_equal(made["trailing"], 100 * np.arange(10, 0, -1) - 1)
    np.testing.assert_array_equal(made["edm"], made["linspace"])
    one = [grids.TimestepSpacing(1, spacing).timesteps() for spacing in ("linspace", "leading", "trailing")]
    np.testing.assert_array_equal(one, [[0], [0], [999]])
    times = grids.TimestepSpacing(4, "trailing", num_levels=8).times(sdes.EDM(sigma_max=4.0))
    np.testing.assert_array_equal(times, [4.0, 3.0, 2.0, 1.0, 0.0])
    part = grids.TimestepSpacing(3, "linspace", num_levels=8, first=6, last=2)
    np.testing.assert_array_equal(part.timesteps(), [6, 4, 2])
    np.testing.assert_array_equal(grids.TimestepSpacing(8, num_levels=8).times(VP), np.arange(8, -1, -1) / 8)


def test_restarts_go_up_and_down_again():
    base = grids.Uniform(10, end=0.1, to_zero=False)
    grid = grids.WithRestarts(base, grids.LogSNRUniform(3), 0.3, 0.6, repeats=2)
    times = grid.times(VP)
    assert len(times) == 11 + 2 * 4
    up = np.flatnonzero(np.diff(times) > 0)
    np.testing.assert_allclose(times[up], times[up[0]], rtol=1e-6)
    assert times[up[0]] <= 0.3 < times[up[0] - 1]
    np.testing.assert_allclose(times[up + 1], 0.6, rtol=1e-6)
    np.testing.assert_array_equal(
        grids.WithRestarts(base, grids.Uniform(3), repeats=0, low=0.3, high=0.6).times(VP),
        base.times(VP),
    )
    twice = grids.WithRestarts(grid, grids.Uniform(2), 0.11, 0.2)
    assert len(twice.times(VP)) == len(times) + 3
    with pytest.raises(
        ValueError, match="WithRestarts needs 0 < low < high <= t_max=1.0, repeats >= 0 and a grid with"
    ):
        grids.WithRestarts(base, grids.Uniform(3), 0.3, 0.2).times(VP)
    with pytest.raises(ValueError, match=r"a time in \(0, low\], got low=0.05"):
        grids.WithRestarts(base, grids.Uniform(3), 0.05, 0.2).times(VP)


def test_a_restart_keeps_the_law_and_counts_its_evaluations():
    """On a Gaussian, with an exact flow between, every restart starts and ends in p_t; without noise nothing moves."""
    grid = grids.WithRestarts(grids.EDMRho(20, end=0.05, to_zero=False), grids.EDMRho(12), 0.2, 0.6, repeats=3)
    data = GaussianMixture(jnp.ones(1), jnp.full((1, 1), 0.7), jnp.full((1, 1), 0.6))
    samples = sample(KEY, data.denoise(VP), solvers.Restart(solvers.Heun()), grid, (20_000, 1))
    alpha, sigma = (float(v) for v in VP.marginal(jnp.asarray(0.05)))
    x, std = np.asarray(samples.x, np.float64), np.hypot(alpha * 0.6, sigma)
    assert abs(x.mean() - 0.7 * alpha) < 4 * std / np.sqrt(x.size) + 0.01
    assert abs(x.std() / std - 1) < 4 / np.sqrt(2 * x.size) + 0.01
    assert np.all(np.asarray(samples.nfe) == 2 * (20 + 3 * 12))
    plain = sample(KEY, data.denoise(VP), solvers.Heun(), grids.EDMRho(20, end=0.05, to_zero=False), (20_000, 1)).x
    assert np.corrcoef(x.ravel(), np.ravel(plain))[0, 1] < 0.9  # the noise is renewed


def test_only_a_restart_goes_up_and_down_again():
    """Every other solver says so; wrappers around a `Restart`, and a restart of wrappers, run."""
    grid = grids.WithRestarts(grids.Uniform(4, end=0.05, to_zero=True), grids.Uniform(3), 0.2, 0.6)
    lonely = (
        solvers.DDIM(),
        solvers.ProbabilityFlow(),
        solvers.DPMSolver12(),
        solvers.Churn(solvers.Heun()),
        solvers.PredictorCorrector(solvers.Ancestral(), solvers.Langevin()),
    )
    for solver in lonely:
        with pytest.raises(
            ValueError, match=r"needs times that only go down, or only up, got a step from t=0.05.* up to"
        ):
            solver.check(VP, grid.times(VP))
    with pytest.raises(ValueError, match=r"on a grid WithRestarts use Restart\(Heun\(…\)\)"):
        sample(KEY, MIXTURE.denoise(VP), solvers.Hook(solvers.Heun(), solvers.recentre), grid, (2, 2))
    restart = solvers.Restart(solvers.Heun())
    for solver in (
        solvers.DenoiseLast(solvers.Churn(restart, 2.0)),
        solvers.PredictorCorrector(restart, solvers.AnnealedLangevin()),
        solvers.Restart(solvers.DenoiseLast(solvers.AncestralSteps(solvers.Heun()))),
    ):
        assert np.all(np.isfinite(sample(KEY, MIXTURE.denoise(VP), solver, grid, (2, 2)).x))
    with pytest.raises(ValueError, match=r"EulerMaruyama needs a finite f\(t\), which Flow lacks at t=1.0"):
        high = grids.WithRestarts(grids.Uniform(4, 0.9, 0.05), grids.Uniform(3), 0.2, 1.0)
        solvers.Restart(solvers.EulerMaruyama()).check(sdes.Flow(), high.times(sdes.Flow()))


def test_restarts_remove_an_error_of_the_way_before():
    """Xu et al., Theorem 1: what came before contracts. A start at the wrong place ends nearer to the data."""
    data, shape = MIXTURE.denoise(VP), (2000, 2)
    errors = []
    for repeats in (0, 3):
        base = grids.EDMRho(24, end=0.02, to_zero=False)
        grid = grids.WithRestarts(base, grids.EDMRho(16), 0.1, 0.6, repeats=repeats)
        x = sample(KEY, data, solvers.Restart(solvers.Heun()), grid, shape, x_start=jnp.full(shape, 0.8)).x
        errors.append(np.abs(np.mean(x, axis=0) - np.asarray(MIXTURE.moments()[0])).max())
    assert errors[1] < 0.6 * errors[0]


def test_a_fitted_grid_beats_the_grid_it_came_from(tmp_path):
    """Its error of ten steps of DDIM is below that of steps uniform in log-SNR, and it serves any number of steps."""
    denoise, shape = MIXTURE.denoise(VP), (64, 2)
    x_start = jax.random.normal(jax.random.key(9), (512, 2))

    def error(grid):
        args = KEY, denoise
        exact = sample(*args, solvers.ProbabilityFlow(1e-6, 1e-6), grids.Uniform(1), (512, 2), x_start=x_start).x
        found = sample(*args, solvers.DDIM(), grid, (512, 2), x_start=x_start).x
        return float(np.mean(np.abs(np.asarray(found - exact))))

    fitted = solvers.fit_grid(KEY, denoise, solvers.DDIM(), shape, order=1.0, intervals=8, to_zero=False)
    assert error(fitted) < 0.85 * error(grids.LogSNRUniform(10))
    path = grids.save_grid(fitted, tmp_path / "grids" / "ddim.json")
    again = build("grid", grids.GRIDS, {"name": "fitted", "path": str(path), "num_steps": 10, "to_zero": False})
    np.testing.assert_array_equal(again.times(VP), fitted.times(VP))
    assert set(json.loads(path.read_text())) == {"knots", "cumulative", "num_steps", "to_zero"}
    for steps in (2, 25):
        longer = build("grid", grids.GRIDS, {"name": "fitted", "path": str(path), "num_steps": steps}).times(VP)
        assert len(longer) == steps + 1
        assert longer[-1] == 0
        np.testing.assert_allclose([longer[0], longer[-2]], [1.0, 1e-3], rtol=1e-6)


@pytree
class KnownError(solvers.Solver):
    """Moves x by (√t − √s)^(order + 1) in a step from t to s: the steps of equal error are those of equal length in √t."""

    order: int = static(default=1)

    def step(self, key, denoise, x, t, s, carry):
        return x + (jnp.sqrt(t) - jnp.sqrt(s)) ** (self.order + 1), carry, 1


@pytest.mark.parametrize("order", [1, 2])
def test_a_fit_to_a_known_error_makes_all_steps_err_alike(order):
    """From a grid with steps of very different errors, and for another number of steps than was measured."""
    solver, denoise = KnownError(order), MIXTURE.denoise(VP)
    fitted = solvers.fit_grid(KEY, denoise, solver, (2, 2), order=float(order), start=1.0, end=0.01, to_zero=False)
    for steps in (16, 5):
        root = np.sqrt(dataclasses.replace(fitted, num_steps=steps).times(VP))
        np.testing.assert_allclose(root, np.linspace(1.0, 0.1, steps + 1), rtol=0.01)
    start = np.sqrt(grids.LogSNRUniform(16, 1.0, 0.01).times(VP))
    assert np.abs(np.diff(start)).max() > 3 * np.abs(np.diff(start)).min()


def test_a_fit_finds_where_the_error_is():
    """A denoiser that changes only between t = 0.4 and 0.5: that is where the steps go."""

    def denoise(x, t):
        x0 = jnp.where((t > 0.4) & (t < 0.5), 1.0, 0.0) * jnp.ones_like(x)
        alpha, sigma = VP.marginal(t)
        return Estimate(x0, (x - alpha * x0) / sigma)

    fitted = solvers.fit_grid(
        KEY, FunctionDenoiser(VP, denoise), solvers.DDIM(), (4, 2), intervals=16, rounds=1, num_steps=20
    )
    inside = np.mean((fitted.times(VP) > 0.35) & (fitted.times(VP) < 0.55))
    even = grids.LogSNRUniform(20).times(VP)
    assert inside > 3 * np.mean((even > 0.35) & (even < 0.55))


def test_errors(tmp_path):
    for make, match in (
        (lambda: grids.Shifted(s=0.0), "Shifted needs s > 0, got s=0.0"),
        (lambda: grids.Sigmoid(k=-1.0), "Sigmoid needs k >= 0, got k=-1.0; k=0 is Uniform"),
        (
            lambda: grids.AlignYourSteps(table="sd2"),
            "AlignYourSteps needs a table of sd15, sdxl, deepfloyd, svd, got 'sd2'",
        ),
        (lambda: grids.PolyExponential(rho=0.0), "PolyExponential needs rho > 0, got rho=0.0"),
        (lambda: grids.BetaSpaced(a=0.0), "BetaSpaced needs a > 0 and b > 0, got a=0.0, b=0.6"),
        (
            lambda: grids.TimestepSpacing(spacing="even"),
            "TimestepSpacing needs a spacing of linspace, edm, leading, trailing, got 'even'",
        ),
        (
            lambda: grids.TimestepSpacing(5, first=1000),
            "needs 0 <= last <= first < num_levels, got TimestepSpacing",
        ),
        (lambda: grids.TimestepSpacing(5, first=3, last=4), "needs 0 <= last <= first < num_levels"),
        (lambda: grids.TimestepSpacing(5, first=3), "needs num_steps from 1 to 4, one for each timestep, got"),
        (
            lambda: grids.TimestepSpacing(4, "leading", first=3, drop_last=True),
            "needs num_steps from 1 to 3, one",
        ),
        (lambda: grids.TimestepSpacing(0), "needs num_steps from 1 to 1000"),
        (lambda: grids.Fitted(5), "Fitted needs at least two knots that decrease and end above 0"),
        (lambda: grids.Fitted(5, knots=(1.0, 0.5), cumulative=(0.0, 0.0)), "a cumulative that increases, got"),
        (lambda: grids.Fitted(5, "a.json", (1.0, 0.5), (0.0, 1.0)), "Fitted needs a path or knots, not both"),
        (
            lambda: grids.Fitted(1, knots=(1.0, 0.5), cumulative=(0.0, 1.0)).times(VP),
            "Fitted needs at least 2 steps",
        ),
        (
            lambda: solvers.fit_grid(KEY, MIXTURE.denoise(VP), solvers.DDIM(), (4, 2), refinement=1),
            "fit_grid needs intervals, rounds >= 1, refinement >= 2 and order > 0",
        ),
    ):
        with pytest.raises(ValueError, match=match):
            make()

    def constant(x, t):
        return Estimate(jnp.zeros_like(x), jnp.full_like(x, jnp.nan))

    with pytest.raises(ValueError, match="fit_grid needs finite results that depend on the grid"):
        solvers.fit_grid(KEY, FunctionDenoiser(VP, constant), solvers.DDIM(), (4, 2), intervals=2)
