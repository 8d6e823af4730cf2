"""Wrappers: churn, AlphaFold 3's scaled steps, hooks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sdes, solvers
from score_sde.denoising.gaussian_mixture import GaussianMixture
from score_sde.solvers import noise, sample
from tests import ground_truth
from tests.solvers.draws import replace_noise
from tests.solvers.test_sample import compilations

KEY = jax.random.key(6)
VP, EDM = sdes.VP(), sdes.EDM()
MIXTURE = GaussianMixture(*(jnp.asarray(part, jnp.float32) for part in ground_truth.POINTS))
X = jnp.asarray([[0.3, -1.2], [1.5, 0.1]])


def step(solver, sde, t, s, x=X, key=KEY, denoise=None):
    denoise = MIXTURE.denoise(sde) if denoise is None else denoise
    return _step(key, denoise, solver, x, jnp.asarray(t), jnp.asarray(s))


@functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
def _step(key, denoise, solver, x, t, s):
    return solver.step(key, denoise, x, t, s, solver.init(x, 10))[0]


@pytest.fixture(autouse=True)
def no_stale_programs():
    """Of steps that were traced with other noise."""
    _step.clear_cache()


def test_churn_of_heun_is_edms_sampler(monkeypatch):
    replace_noise(monkeypatch, lambda key, x: 0.7 * jnp.ones_like(x))
    fields = {"S_churn": 4.0, "S_min": 0.05, "S_max": 50.0, "S_noise": 1.003}
    for sde, t, s in ((VP, 0.6, 0.5), (VP, 0.02, 0.01), (EDM, 3.0, 2.0)):
        ours, theirs = (
            step(solver, sde, t, s) for solver in (solvers.Churn(solvers.Heun(), **fields), solvers.EDMHeun(**fields))
        )
        np.testing.assert_allclose(ours, theirs, rtol=2e-6)


def test_scaled_steps_are_algorithm_18(monkeypatch):
    """AlphaFold 3, written out in σ: γ = γ0 where c_τ > γ_min; t̂ = c_{τ−1}(1 + γ); x ← x̂ + η (c_τ − t̂)(x̂ − D)/t̂."""
    z = jnp.asarray([[0.4, -0.2], [1.0, 0.3]])
    replace_noise(monkeypatch, lambda key, x: z)
    solver = solvers.StepScale(solvers.DDIM())
    for t, s in ((5.0, 3.0), (1.5, 0.9), (0.5, 0.0)):
        gamma = 0.8 if s > 1.0 else 0.0
        t_hat = t * (1 + gamma)
        noisy = X + 1.003 * np.sqrt(t_hat**2 - t**2) * z
        denoised = MIXTURE.denoise(EDM)(noisy, jnp.asarray(t_hat)).x0
        expected = noisy + 1.5 * (s - t_hat) * (noisy - denoised) / t_hat
        np.testing.assert_allclose(step(solver, EDM, t, s), expected, rtol=2e-5, atol=2e-5)
        # The same in x/α on another SDE.
        t_vp, s_vp = (float(VP.time_of_log_snr(-2 * np.log(level))) if level else 0.0 for level in (t, s))
        scales = [float(VP.alpha(v)) for v in (t_vp, s_vp)]
        ours = step(solver, VP, t_vp, s_vp, scales[0] * X) / scales[1]
        np.testing.assert_allclose(ours, expected, rtol=2e-4, atol=2e-4)


def test_a_hook_is_called_with_keys_of_its_own():
    def kick(key, x, t):
        return x + t * noise.standard_normal(key, x)

    kicked = X + 0.5 * noise.standard_normal(noise.fold_in(KEY, 0), X)
    expected = step(solvers.Ancestral(), VP, 0.5, 0.4, kicked, noise.fold_in(KEY, 1))
    np.testing.assert_allclose(step(solvers.Hook(solvers.Ancestral(), kick), VP, 0.5, 0.4), expected, rtol=1e-6)


def clouds(number, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((number, 6, 3)), jnp.float32)


def test_a_rigid_motion_is_one_and_is_uniform():
    points = clouds(3000)
    move = jax.jit(solvers.RandomRigidMotion(0.5))
    points, moved = np.asarray(points), np.asarray(move(jax.random.split(KEY, 3000), points, jnp.asarray(0.1)))
    assert abs(np.std(moved.mean(axis=1)) - 0.5) < 0.02
    before, after = (v - v.mean(axis=1, keepdims=True) for v in (points, moved))
    np.testing.assert_allclose(*(np.sum(v[:, :2] ** 2, axis=2) for v in (before, after)), rtol=1e-3, atol=1e-4)
    volume = [np.linalg.det(v[:, :3] - v[:, 3:4]) for v in (before, after)]
    np.testing.assert_allclose(*volume, rtol=5e-2, atol=2e-3)  # no reflections
    axes = jnp.concatenate([jnp.eye(3), -jnp.eye(3)])  # random points would look random after any rotation
    turned = np.asarray(
        move(jax.random.split(jax.random.key(7), 3000), jnp.tile(axes[None], (3000, 1, 1)), jnp.ones(()))
    )
    rotations = (turned - turned.mean(axis=1, keepdims=True))[:, :3].reshape(3000, 9)
    assert np.abs(rotations.mean(axis=0)).max() < 5 / np.sqrt(3 * 3000)
    assert np.abs(rotations.T @ rotations / 3000 - np.eye(9) / 3).max() < 0.03


def test_the_samplers_of_clouds_of_points():
    """Re-centred before each step, points of a centred density stay centred; one program for all fields."""
    data = GaussianMixture(
        jnp.ones(1), clouds(1) - jnp.mean(clouds(1), axis=1, keepdims=True), 0.1 * jnp.ones((1, 6, 3))
    )
    solver = solvers.Hook(solvers.StepScale(solvers.DDIM()), solvers.recentre)
    x = sample(KEY, data.denoise(EDM), solver, solvers.grids.EDMRho(8), (4, 6, 3)).x
    moved = solvers.Hook(solvers.StepScale(solvers.DDIM(), 1.0), solvers.RandomRigidMotion())
    y = sample(KEY, data.denoise(EDM), moved, solvers.grids.EDMRho(8), (4, 6, 3)).x
    assert np.abs(np.mean(x, axis=1)).max() < 0.2
    assert np.all(np.isfinite(y))
    with compilations() as seen:
        other = solvers.Hook(solvers.StepScale(solvers.DDIM(), 1.2, 1.0, 0.5, 0.2), solvers.RandomRigidMotion(0.1))
        sample(KEY, data.denoise(EDM), other, solvers.grids.EDMRho(9), (4, 6, 3))
    assert not seen
