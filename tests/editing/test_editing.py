"""Inversion (the round trip and the exact latent), interpolation, and SDEdit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import editing, sdes, solvers
from score_sde.denoising.gaussian_mixture import GaussianMixture
from tests import ground_truth

VP, KEY = sdes.VP(), jax.random.key(8)
MIXTURE = GaussianMixture(*(jnp.asarray(part, jnp.float32) for part in ground_truth.POINTS))
DENOISE = MIXTURE.denoise(VP)
DATA = np.asarray(MIXTURE.sample(jax.random.key(0), 64))
# Root mean square errors of 20 and 40 steps, there and back, must be below; and how much smaller the second is at least.
SOLVERS = {
    "euler": (solvers.Euler(), 0.3, 1.5),
    "heun": (solvers.Heun(), 0.05, 2.5),
    "dpm_solver_pp_2m": (solvers.DPMSolverPP2M(), 0.1, 2.0),
    "dpm_solver_pp_3m_none": (solvers.DPMSolverPP3MSDE(eta=0.0), 0.1, 2.0),
    "sa_solver": (solvers.SASolver(tau=0.0), 0.1, 2.5),
    "unipc": (solvers.UniPC(), 0.1, 2.0),
}


def grid(steps):
    return solvers.grids.EDMRho(steps, end=0.01, to_zero=False)


@pytest.mark.few(2)
@pytest.mark.parametrize("name", SOLVERS)
def test_round_trip(name):
    solver, below, factor = SOLVERS[name]
    coarse, fine = (float(np.mean(editing.round_trip_error(DENOISE, DATA, solver, grid(steps)))) for steps in (20, 40))
    assert coarse < below
    assert coarse > factor * fine


@pytest.mark.parametrize("solver", [solvers.ProbabilityFlow(1e-6, 1e-6), solvers.DPMSolver23(1e-4, 1e-4)])
def test_the_adaptive_round_trip_is_exact(solver):
    error = editing.round_trip_error(DENOISE, DATA, solver, solvers.grids.Uniform(1, end=0.01))
    assert error.shape == (64,)
    assert float(np.max(error)) < 2e-3


def test_the_latent_of_a_gaussian_is_known():
    """The flow carries m + s u to the same quantile: α m + √(α² s² + σ²) u."""
    data = GaussianMixture(jnp.ones(1), jnp.full((1, 1), 0.7), jnp.full((1, 1), 0.6))
    u = jnp.asarray([[-1.0], [0.5], [2.0]])
    encoded = editing.encode(data.denoise(VP), 0.7 + 0.6 * u, solvers.Heun(), grid(60))
    alpha, sigma = VP.marginal(1.0)
    np.testing.assert_allclose(encoded.x, 0.7 * alpha + jnp.sqrt((0.6 * alpha) ** 2 + sigma**2) * u, atol=2e-2)
    assert np.all(np.asarray(encoded.nfe) == 120)
    on_edm = sdes.EDM()
    encoded = editing.encode(
        data.denoise(on_edm), 0.7 + 0.6 * u, solvers.Heun(), solvers.grids.EDMRho(60, to_zero=False)
    )
    np.testing.assert_allclose(encoded.x, 0.7 + np.hypot(0.6, 80.0) * u, rtol=1e-2, atol=0.1)


def test_slerp():
    first, second = jnp.asarray([1.0, 0.0]), jnp.asarray([0.0, 2.0])
    path = editing.slerp(first, second, jnp.asarray([0.0, 0.5, 1.0]))
    np.testing.assert_allclose(path, [[1, 0], [np.sqrt(0.5), np.sqrt(2)], [0, 2]], atol=1e-6)
    rng = np.random.default_rng(0)
    noises = [jnp.asarray(rng.standard_normal((8, 8, 3)), jnp.float32) for _ in range(2)]
    norms = jnp.linalg.norm(editing.slerp(*noises, jnp.linspace(0, 1, 5)).reshape(5, -1), axis=1)
    assert np.abs(norms / norms[0] - 1).max() < 0.1
    same = editing.slerp(first, first, jnp.asarray([0.3]))
    np.testing.assert_allclose(same, first[None], atol=1e-6)


def test_interpolation_ends_at_the_images_and_draws_them():
    first, second = DATA[:32], DATA[32:]
    found = editing.interpolate(DENOISE, first, second, solvers.Heun(), grid(40), number=5)
    assert found.shape == (32, 5, 2)
    np.testing.assert_allclose(found[:, 0], first, atol=0.05)
    np.testing.assert_allclose(found[:, -1], second, atol=0.05)
    density = ground_truth.POINTS.log_prob(np.asarray(found[:, 2], np.float64))
    halfway = ground_truth.POINTS.log_prob((first + second) / 2.0)
    assert density.mean() > halfway.mean() + 0.3
    picture = editing.interpolation_picture(jnp.zeros((2, 4, 8, 8, 1)))
    assert picture.shape[1] > picture.shape[0]
    assert picture.dtype == np.uint8


def test_sdedit_is_faithful_for_a_small_start_and_free_for_a_large_one():
    x0 = np.tile(np.asarray([[3.0, 3.0]], np.float32), (200, 1))  # far from all modes

    def edit(start):
        steps = solvers.grids.LogSNRUniform(30, start, 0.01)
        return np.asarray(editing.sdedit(KEY, DENOISE, x0, solvers.DDIM(), steps).x)

    distances = [np.abs(edit(start) - 3.0).mean() for start in (0.02, 0.3, 0.99)]
    assert distances[0] < distances[1] < distances[2]
    far = edit(0.99)
    mean_error, _ = ground_truth.moment_errors(far, *ground_truth.POINTS.moments(), 0.2)
    assert mean_error < 4
    alone = editing.sdedit(
        KEY, DENOISE, x0[:2], solvers.DDIM(), solvers.grids.LogSNRUniform(30, 0.3, 0.01), first_index=5
    ).x
    np.testing.assert_allclose(alone, edit(0.3)[5:7], atol=1e-5)


def test_a_grid_to_zero_is_refused():
    for function in (editing.encode, editing.decode):
        with pytest.raises(ValueError, match="Inversion needs a grid that ends where σ > 0, got σ=0 at t=0.0"):
            function(DENOISE, DATA, solvers.Heun(), solvers.grids.EDMRho(10))
