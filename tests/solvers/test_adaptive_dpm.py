"""DPM-Solver-12 and -23: steps of each image alone, tolerances, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sdes, solvers
from score_sde.analytic import GaussianMixture
from score_sde.parameterizations import Estimate
from score_sde.solvers import adaptive_dpm, sample
from tests import ground_truth
from tests.solvers import replay

KEY = jax.random.key(0)
CROWSON, CROWSON_META = replay.load("k_diffusion_dpm.npz")
MIXTURE = GaussianMixture(*(jnp.asarray(part, jnp.float32) for part in ground_truth.POINTS))


class AuthorsRule:
    def judge(self, error, h, order):
        """(whether the step counts, the next h)."""
        return error <= 1, 0.9 * h * error ** (-1 / order)


class LimitedPID:
    """k-diffusion's controller, which remembers 1/error of the steps that counted."""

    def __init__(self, p, i, d, accept_safety):
        self.p, self.i, self.d, self.accept_safety, self.inverses = p, i, d, accept_safety, None

    def judge(self, error, h, order):
        inverse = 1 / (error + 1e-8)
        last, before = self.inverses or (inverse, inverse)
        factor = inverse ** ((self.p + self.i + self.d) / order) * last ** (-(self.p + 2 * self.d) / order)
        factor = 1 + np.arctan(factor * before ** (self.d / order) - 1)
        counts = factor >= self.accept_safety
        self.inverses = (inverse, last) if counts else (last, before)
        return counts, h * factor


def reference_adaptive(order, sde, denoise, x, t, end, rtol, atol, controller):
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
        counts, h_next = controller.judge(error, h, order)
        if counts:
            x, t, previous, reached = higher, s, lower, reached + h
        h = min(h_next, at(end)[2] - reached)
        nfe += order
    return x, nfe


PID = {"pcoeff": 0.3, "icoeff": 0.6, "dcoeff": 0.1, "accept_safety": 0.85}


@pytest.mark.parametrize("fields", [{}, PID], ids=["authors", "pid"])
@pytest.mark.parametrize("order", [2, 3])
def test_adaptive_steps_are_those_of_each_image_alone(order, fields):
    """Each image of a batch goes as the published algorithm goes with it alone, evaluations included."""
    family = solvers.DPMSolver12 if order == 2 else solvers.DPMSolver23
    with jax.enable_x64(True):
        sde, start = sdes.VP(), np.random.default_rng(3).standard_normal((4, 2))
        mixture = GaussianMixture(*(jnp.asarray(part, jnp.float64) for part in ground_truth.POINTS))
        args = KEY, sde, mixture.denoise(sde), family(0.02, 1e-3, **fields), solvers.Uniform(1, end=1e-3), start.shape
        samples = sample(*args, x_start=start)
        for i in range(4):
            controller = LimitedPID(*fields.values()) if fields else AuthorsRule()
            x, nfe = reference_adaptive(order, sde, args[2], start[i : i + 1], 1.0, 1e-3, 0.02, 1e-3, controller)
            np.testing.assert_allclose(samples.x[i], x[0], atol=1e-8)
            assert samples.nfe[i] == nfe
        assert len(np.unique(samples.nfe)) > 1


@pytest.mark.parametrize("name", [name for name, case in CROWSON_META["cases"].items() if "order" in case])
def test_k_diffusion(name, monkeypatch):
    """Its error is that of the whole batch, and so is ours here, and only here."""
    case, own = CROWSON_META["cases"][name], adaptive_dpm.image_errors

    def of_the_batch(*args):
        each = own(*args)
        return jnp.broadcast_to(jnp.sqrt(jnp.mean(each**2)), each.shape)

    monkeypatch.setattr(adaptive_dpm, "image_errors", of_the_batch)
    family = solvers.DPMSolver12 if case["order"] == 2 else solvers.DPMSolver23
    with jax.enable_x64(True):
        sde, solver = sdes.EDM(), family(case["rtol"], case["atol"], accept_safety=0.81)
        args = KEY, sde, replay.mixture(CROWSON).denoise(sde), jnp.asarray(80.0 * CROWSON["z0_m2"])
        x, nfe = solver.step(*args, jnp.asarray(80.0), jnp.asarray(0.002), solver.init(args[3], 1))
        np.testing.assert_array_equal(nfe, CROWSON[f"{name}/nfe"])
        np.testing.assert_allclose(x, CROWSON[f"{name}/final"], rtol=1e-9, atol=1e-11)


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
        for fields in ({"pcoeff": -0.1}, {"icoeff": 0.0}, {"accept_safety": 0.0}, {"accept_safety": 1.1}):
            with pytest.raises(
                ValueError, match=r"dcoeff >= 0, not all 0, and 0 < accept_safety <= 1 or None, got DPMS"
            ):
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
