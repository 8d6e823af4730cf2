"""DPM-Solver-12 and -23: steps of each image alone, tolerances, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sdes, solvers
from score_sde.denoising.estimate import Estimate
from score_sde.denoising.function_denoiser import FunctionDenoiser
from score_sde.denoising.gaussian_mixture import GaussianMixture
from score_sde.solvers import noise, sample
from score_sde.solvers.ode import dpm_solver_adaptive as adaptive_dpm
from tests import ground_truth
from tests.conformance import GRIDS, SDES
from tests.covering import covering
from tests.solvers import replay
from tests.solvers.chosen import chosen
from tests.solvers.draws import replace_noise

KEY = jax.random.key(0)
CROWSON, CROWSON_META = replay.load("k_diffusion_adaptive.npz")
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
        args = (
            KEY,
            mixture.denoise(sde),
            family(0.02, 1e-3, max_growth=np.inf, **fields),
            solvers.grids.Uniform(1, end=1e-3),
            start.shape,
        )
        samples = sample(*args, x_start=start)
        for i in range(4):
            controller = LimitedPID(*fields.values()) if fields else AuthorsRule()
            x, nfe = reference_adaptive(order, sde, args[1], start[i : i + 1], 1.0, 1e-3, 0.02, 1e-3, controller)
            np.testing.assert_allclose(samples.x[i], x[0], atol=1e-8)
            assert samples.nfe[i] == nfe
        assert len(np.unique(samples.nfe)) > 1


FAMILIES = {"12": solvers.DPMSolver12, "23": solvers.DPMSolver23}


@pytest.mark.parametrize(("family", "predicts", "sde_name"), covering(FAMILIES, ["eps", "x0"], SDES, times=1))
def test_the_defaults_are_right_on_every_sde(family, predicts, sde_name):
    """Within a tenth of a standard deviation, which the tolerances leave; without a limit on growth EDM's was 6 times off."""
    sde = SDES[sde_name]
    solver, grid = FAMILIES[family](predicts=predicts), GRIDS["uniform"](sde, 1)
    x = sample(KEY, MIXTURE.denoise(chosen(sde_name)), solver, grid, (2000, 2)).x
    moments = ground_truth.POINTS.moments(*(float(v) for v in sde.marginal(jnp.asarray(grid.end))))
    assert max(ground_truth.moment_errors(x, *moments, 0.1)) < 4


@pytest.mark.parametrize("fields", [{}, {"accept_safety": 0.81}], ids=["authors", "limited_pid"])
def test_a_step_is_not_longer_than_max_growth_allows(fields):
    """A denoiser that is exact at once: E is 0, and the steps are 0.05 (1 + g + g² …) in log(α/σ).

    k-diffusion's controller has a limit of its own, 1 + arctan ∞.
    """
    point = GaussianMixture(jnp.ones(1), jnp.zeros((1, 2)), jnp.zeros((1, 2)))
    sde = sdes.EDM()
    for growth in (2.0, 2.3, 3.0, np.inf):
        largest = min(growth, 1 + np.pi / 2 if fields else 1e9)
        steps = 1 + int(np.argmax(np.cumsum(0.05 * largest ** np.arange(8)) > np.log(80 / 0.002)))
        solver = solvers.DPMSolver12(max_growth=growth, predicts="x0", **fields)
        samples = sample(KEY, point.denoise(sde), solver, solvers.grids.Uniform(1, end=0.002), (2, 2))
        np.testing.assert_array_equal(samples.nfe, 2 * steps)


@pytest.mark.parametrize("name", CROWSON_META["cases"])
def test_k_diffusion(name, monkeypatch):
    """Its error is that of the whole batch, and so is ours here, and only here; its noise, drawn once a step that counts."""
    case, own = CROWSON_META["cases"][name], adaptive_dpm.image_errors
    counted = CROWSON[f"{name}/err_h_accept"][:, 2].astype(int)
    draws = CROWSON.get(f"{name}/noise", np.zeros((counted[-1], 1, 1)))[np.maximum(counted - 1, 0)]

    def of_the_batch(*args):
        each = own(*args)
        return jnp.broadcast_to(jnp.sqrt(jnp.mean(each**2)), each.shape)

    monkeypatch.setattr(adaptive_dpm, "image_errors", of_the_batch)

    def key_of(key, attempt):
        return jax.random.wrap_key_data(jnp.stack([attempt, attempt]).astype(jnp.uint32))

    monkeypatch.setattr(noise, "fold_in", key_of)

    def drawn(key, x):
        return jnp.broadcast_to(jnp.asarray(draws)[jax.random.key_data(key)[0]], x.shape)

    replace_noise(monkeypatch, drawn)
    family, mixture = solvers.DPMSolver12 if case["order"] == 2 else solvers.DPMSolver23, name.split("/")[0]
    with jax.enable_x64(True):
        sde, solver = (
            sdes.EDM(),
            family(case["rtol"], case["atol"], accept_safety=0.81, eta=case["eta"], max_growth=np.inf),
        )
        start, denoise = jnp.asarray(80.0 * CROWSON[f"z0_{mixture}"]), replay.mixture(CROWSON, mixture).denoise(sde)
        carry = solver.init(start, 1)
        x, _, nfe = solver.step(KEY, denoise, start, jnp.asarray(80.0), jnp.asarray(0.002), carry)
        np.testing.assert_array_equal(nfe, CROWSON[f"{name}/nfe"])
        np.testing.assert_allclose(x, CROWSON[f"{name}/final"], rtol=1e-9, atol=1e-11)


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("sde_name", "fields"), [("vp", {"eta": 1.0}), ("edm", {"eta": 0.5}), ("flow", {"eta": 1.0} | PID)]
)
def test_noise_keeps_the_distribution(sde_name, fields):
    """Moments of the mixture within 5 standard errors; an image has its own noise, whichever others are drawn with it."""
    sde, number = SDES[sde_name], 4096
    solver = (solvers.DPMSolver23 if sde_name == "edm" else solvers.DPMSolver12)(3e-3, 3e-4, **fields)
    grid, denoise = GRIDS["uniform"](sde, 1), MIXTURE.denoise(sde)
    x, nfe, *_ = sample(KEY, denoise, solver, grid, (number, 2))
    assert len(np.unique(nfe)) > 5
    mean, covariance = ground_truth.POINTS.moments(*(float(v) for v in sde.marginal(float(grid.times(sde)[-1]))))
    x, variance = np.asarray(x, np.float64), np.diag(covariance)
    assert np.all(np.abs(x.mean(0) - mean) < 5 * np.sqrt(variance / number))
    assert np.all(np.abs(x.var(0) - variance) < 5 * np.sqrt(np.mean((x - mean) ** 4, axis=0) / number))
    first, second = (sample(KEY, denoise, solver, grid, (6, 2), first_index=index).x for index in (0, 2))
    np.testing.assert_array_equal(first[2:], second[:4])
    assert np.abs(np.diff(first, axis=0)).min() > 1e-4


def test_adaptive_tolerances_are_kept():
    with jax.enable_x64(True):
        sde, start = sdes.VP(), np.random.default_rng(3).standard_normal((4, 2))
        mixture = GaussianMixture(*(jnp.asarray(part, jnp.float64) for part in ground_truth.POINTS))

        def solve(solver):
            return sample(
                KEY, mixture.denoise(sde), solver, solvers.grids.Uniform(2, end=1e-3), start.shape, x_start=start
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
        return sample(KEY, denoise, solver, solvers.grids.Uniform(1, **grid), (2, 2)).x

    for family in (solvers.DPMSolver12, solvers.DPMSolver23):
        with pytest.raises(ValueError, match=rf"{family.__name__} needs a grid where log\(α/σ\) is finite.*t=0.0"):
            draw(family(), end=0.0)
        with pytest.raises(ValueError, match=rf"{family.__name__} needs a grid where.*not at t=1.0"):
            draw(family(), sdes.Flow())
        for fields in ({"rtol": -1.0}, {"atol": 0.0}, {"h_init": 0.0}, {"safety": 1.0}, {"max_steps": 0}):
            with pytest.raises(ValueError, match=rf"{family.__name__} needs rtol >= 0, atol > 0, h_init > 0"):
                family(**fields)
        for fields in (
            {"pcoeff": -0.1},
            {"icoeff": 0.0},
            {"accept_safety": 0.0},
            {"accept_safety": 1.1},
            {"eta": 1.1},
            {"s_noise": -1.0},
            {"max_growth": 1.0},
        ):
            with pytest.raises(
                ValueError,
                match=r"dcoeff >= 0, not all 0, 0 < accept_safety <= 1 or None, 0 <= eta <= 1, .* max_growth > 1, got DPMS",
            ):
                family(**fields)
        with pytest.raises(ValueError, match=r"needs eta=0 on the way to noise, got eta=0.5 and t from 0.1 up to 0.9"):
            family(eta=0.5).check(sdes.VP(), np.asarray([0.1, 0.9]))
        with pytest.raises(ValueError, match="needs predicts among eps, x0, got 'v'"):
            family(predicts="v")
    with pytest.raises(
        RuntimeError, match="did not reach the end for 2 of 2 images within max_steps=3 steps of DPM-Solver-12"
    ):
        draw(solvers.DPMSolver12(max_steps=3), end=1e-3)

    def broken(x, t):
        return Estimate(jnp.full_like(x, jnp.nan), jnp.full_like(x, jnp.nan))

    with pytest.raises(RuntimeError, match="did not reach the end for 2 of 2 images"):
        draw(solvers.DPMSolver23(), denoise=FunctionDenoiser(sdes.VP(), broken), end=1e-3)
