"""DPM-Solver-12 and -23: steps of each image alone, tolerances, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sdes, solvers
from score_sde.analytic import GaussianMixture
from score_sde.parameterizations import Estimate
from score_sde.solvers import sample
from tests import ground_truth

KEY = jax.random.key(0)
MIXTURE = GaussianMixture(*(jnp.asarray(part, jnp.float32) for part in ground_truth.POINTS))


def reference_adaptive(order, sde, denoise, x, t, end, rtol, atol):
    """The published algorithm for one image, with its own formulas for ε̂, in numpy's float64."""

    evaluate = jax.jit(lambda x, t: denoise(x, t).eps)

    def eps(x, t):
        return np.asarray(evaluate(jnp.asarray(x), jnp.asarray(t)))

    def at(t):
        return float(sde.alpha(t)), float(sde.sigma(t)), 0.5 * float(sde.log_snr(t))

    reached, h, previous, nfe = at(t)[2], 0.05, x, 0
    r1, r2 = (0.5, 1.0) if order == 2 else (1 / 3, 2 / 3)
    while abs(t - end) > 1e-9:
        s, t1, t2 = (float(sde.time_of_log_snr(2 * (reached + r * h))) for r in (1.0, r1, r2))
        (a, _, _), (a1, s1, _), (a2, s2, _), (b, sb, _) = at(t), at(t1), at(t2), at(s)
        e = eps(x, t)
        d1 = eps(a1 / a * x - s1 * np.expm1(r1 * h) * e, t1) - e
        first = b / a * x - sb * np.expm1(h) * e
        second = first - sb * np.expm1(h) / (2 * r1) * d1
        lower, higher = first, second
        if order == 3:
            x2 = a2 / a * x - s2 * np.expm1(r2 * h) * e - s2 * r2 / r1 * (np.expm1(r2 * h) / (r2 * h) - 1) * d1
            d2 = eps(x2, t2) - e
            lower, higher = second, first - sb / r2 * (np.expm1(h) / h - 1) * d2
        scale = np.maximum(atol, rtol * np.maximum(np.abs(lower), np.abs(previous)))
        error = np.sqrt(np.mean(((higher - lower) / scale) ** 2))
        if error <= 1:
            x, t, previous, reached = higher, s, lower, reached + h
        h = min(0.9 * h * error ** (-1 / order), at(end)[2] - reached)
        nfe += order
    return x, nfe


@pytest.mark.parametrize("order", [2, 3])
def test_adaptive_steps_are_those_of_each_image_alone(order):
    """Each image of a batch goes as the published algorithm goes with it alone, evaluations included."""
    family = solvers.DPMSolver12 if order == 2 else solvers.DPMSolver23
    with jax.enable_x64(True):
        sde, start = sdes.VP(), np.random.default_rng(3).standard_normal((4, 2))
        mixture = GaussianMixture(*(jnp.asarray(part, jnp.float64) for part in ground_truth.POINTS))
        args = KEY, sde, mixture.denoise(sde), family(0.02, 1e-3), solvers.Uniform(1, end=1e-3), start.shape
        samples = sample(*args, x_start=start)
        for i in range(4):
            x, nfe = reference_adaptive(order, sde, args[2], start[i : i + 1], 1.0, 1e-3, 0.02, 1e-3)
            np.testing.assert_allclose(samples.x[i], x[0], atol=1e-8)
            assert samples.nfe[i] == nfe
        assert len(np.unique(samples.nfe)) > 1


def test_adaptive_tolerances_are_kept():
    with jax.enable_x64(True):
        sde, start = sdes.VP(), np.random.default_rng(3).standard_normal((4, 2))
        mixture = GaussianMixture(*(jnp.asarray(part, jnp.float64) for part in ground_truth.POINTS))

        def solve(solver):
            return sample(
                KEY, sde, mixture.denoise(sde), solver, solvers.Uniform(2, end=1e-3), start.shape, x_start=start
            )

        exact = solve(solvers.ProbabilityFlow(1e-10, 1e-10)).x
        for family, predicts in ((solvers.DPMSolver12, "x0"), (solvers.DPMSolver23, "eps")):
            errors, evaluations = [], []
            for tolerance in (1e-2, 1e-4):
                found = solve(family(tolerance, tolerance, predicts=predicts))
                errors.append(np.abs(found.x - exact).max())
                evaluations.append(found.nfe.max())
            assert errors[0] < 3e-1
            assert errors[1] < 3e-3
            assert evaluations[1] > 2 * evaluations[0]


def test_adaptive_errors():
    def draw(solver, sde=None, denoise=None, **grid):
        sde = sdes.VP() if sde is None else sde
        denoise = MIXTURE.denoise(sde) if denoise is None else denoise
        return sample(KEY, sde, denoise, solver, solvers.Uniform(1, **grid), (2, 2)).x

    for family in (solvers.DPMSolver12, solvers.DPMSolver23):
        with pytest.raises(ValueError, match=rf"{family.__name__} needs a grid where log\(α/σ\) is finite.*t=0.0"):
            draw(family(), end=0.0)
        with pytest.raises(ValueError, match=rf"{family.__name__} needs a grid where.*not at t=1.0"):
            draw(family(), sdes.Flow())
        for fields in ({"rtol": -1.0}, {"atol": 0.0}, {"h_init": 0.0}, {"safety": 1.0}, {"max_steps": 0}):
            with pytest.raises(ValueError, match=rf"{family.__name__} needs rtol >= 0, atol > 0, h_init > 0"):
                family(**fields)
        with pytest.raises(ValueError, match="needs predicts among eps, x0, got 'v'"):
            family(predicts="v")
    with pytest.raises(
        Exception, match="did not reach the end for 2 of 2 images within max_steps=3 steps of DPM-Solver-12"
    ):
        jax.block_until_ready(draw(solvers.DPMSolver12(max_steps=3), end=1e-3))

    def broken(x, t):
        return Estimate(jnp.full_like(x, jnp.nan), jnp.full_like(x, jnp.nan))

    with pytest.raises(Exception, match="did not reach the end for 2 of 2 images"):
        jax.block_until_ready(draw(solvers.DPMSolver23(), denoise=broken, end=1e-3))
