"""Every deterministic solver on every SDE: on Gaussian data the probability flow is a known affine map."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sdes, solvers
from score_sde.denoising.estimate import Estimate
from score_sde.denoising.function_denoiser import FunctionDenoiser
from score_sde.denoising.gaussian_mixture import GaussianMixture
from score_sde.solvers import sample
from tests import ground_truth
from tests.conformance import DETERMINISTIC, GRIDS, SDES
from tests.covering import covering
from tests.solvers.test_sample import compilations

MEAN, STD = np.array([[0.7, -0.4]]), np.array([[0.6, 1.3]])
ADAPTIVE = ("dpm_solver_12", "dpm_solver_23")
LENGTH = 128
FIRST_ORDER = ("ipndm", "pndm")


@functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
def solve(solver, sde, x, times, num_steps):
    mixture = GaussianMixture.__new__(GaussianMixture)
    for field, value in zip(("weights", "means", "stds"), (np.ones(1), MEAN, STD), strict=True):
        object.__setattr__(mixture, field, jnp.asarray(value))

    def body(k, state):
        return solver.step(jax.random.key(0), mixture.denoise(sde), state[0], times[k], times[k + 1], state[1])[:2]

    return jax.lax.fori_loop(0, num_steps, body, (x, solver.init(x, num_steps)))[0]


def error(solver, sde, grid):
    """The largest distance from the exact map, of points within two standard deviations, in standard deviations."""
    times = grid.times(sde)
    ends = [sde.marginal(jnp.asarray(t)) for t in (times[0], times[-1])]
    (centre, spread), (mean, std) = ((float(a) * MEAN, np.hypot(float(a) * STD, float(s))) for a, s in ends)
    z = np.linspace(-2, 2, 5)[:, None] * np.ones((1, 2))
    padded = np.pad(times, (0, LENGTH + 1 - len(times)), mode="edge")
    x = solve(solver, sde, jnp.asarray(centre + spread * z), padded, len(times) - 1)
    return np.abs((np.asarray(x) - mean) / std - z).max()


@pytest.mark.few(4)
@pytest.mark.parametrize(("name", "sde_name"), covering(DETERMINISTIC, SDES, times=1))
def test_the_exact_map(name, sde_name):
    sde, solver = SDES[sde_name], DETERMINISTIC[name]
    with jax.enable_x64(True):
        if name in ADAPTIVE:
            assert error(solver, sde, GRIDS["uniform"](sde, 1)) < 0.5
            return
        # On EDM and iDDPM, whose σ/α goes up to thousands, steps uniform in t are too long for methods in σ/α.
        kind = "edm_rho" if sde_name in ("edm", "iddpm") else list(GRIDS)[len(name) % len(GRIDS)]
        coarse, fine = (error(solver, sde, GRIDS[kind](sde, n)) for n in (64, 128))
        assert fine < 0.05, (kind, coarse, fine)
        assert coarse / fine > (1.4 if name in FIRST_ORDER else 1.8) or fine < 1e-9, (kind, coarse, fine)


EXPECTED = {  # evaluations of 12 steps, the last of them to σ = 0, and of 11 steps that end before
    "runge_kutta": (45, 44),
    "dpm2": (23, 22),
    "dpm_solver": (34, 33),
    "dpm_solver_fast": (34, 33),
    "dpm_solver_pp_2s": (23, 22),
    "dpm_solver_pp_3s": (34, 33),
    "pndm": (21, 20),
}


@pytest.mark.few(8)
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_the_number_of_evaluations_is_the_true_one(name):
    calls, vp, solver = [], sdes.VP(), DETERMINISTIC[name]

    def counted(x, t):
        jax.debug.callback(lambda: calls.append(1))
        alpha, sigma = (jnp.reshape(c, (-1, 1)) for c in vp.marginal(t))
        return Estimate(0.5 * x, (1 - 0.5 * alpha) / sigma * x)

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def step(x, t, s, carry):
        return solver.step(jax.random.key(0), FunctionDenoiser(vp, counted), x, t, s, carry)

    times = [0.999, 1e-3] if name in ADAPTIVE else solvers.grids.Uniform(12, end=0.01, to_zero=True).times(vp)
    for end in (None,) if name in ADAPTIVE else (None, -1):
        calls.clear()
        x = jnp.ones((1, 2))
        carry, nfe = solver.init(x, 12), 0
        for t, s in itertools.pairwise(times[:end]):
            x, carry, evaluations = step(x, jnp.asarray(t), jnp.asarray(s), carry)
            nfe += int(np.max(evaluations))
        jax.effects_barrier()
        assert nfe == len(calls)
        if name not in ADAPTIVE:
            assert nfe == EXPECTED.get(name, (12, 11))[0 if end is None else 1]
        assert np.all(np.isfinite(x))
        assert x.dtype == jnp.float32


@pytest.mark.parametrize("name", ["unipc", "dpm_solver"])
def test_another_number_of_steps_or_another_field_compiles_nothing(name):
    mixture = GaussianMixture(*(jnp.asarray(part, jnp.float32) for part in ground_truth.POINTS))

    def draw(steps, value):
        solver = (
            solvers.UniPC(lower_order_below=steps + 1) if name == "unipc" else solvers.DPMSolver(3, value, 2 * value)
        )
        vp = sdes.VP(beta_max=20.0 - value)
        return sample(jax.random.key(0), mixture.denoise(vp), solver, solvers.grids.Uniform(steps, end=0.01), (4, 2)).x

    first = draw(3, 0.3)
    with compilations() as seen:
        others = [draw(steps, value) for steps, value in ((4, 0.2), (9, 0.4))]
    assert not seen
    assert all(np.abs(np.asarray(other - first)).max() > 1e-3 for other in others)


def pndm_by_the_paper(sde, denoise, x, times):
    """Algorithm 2 of arXiv 2202.09778 with its Eq. 11, which is written in ᾱ = α²."""

    def transfer(x, eps, t, s):
        before, after = (float(sde.alpha(jnp.asarray(v))) ** 2 for v in (t, s))
        roots = np.sqrt(before) * (np.sqrt((1 - after) * before) + np.sqrt((1 - before) * after))
        return np.sqrt(after / before) * x - (after - before) / roots * eps

    def eps(x, t):
        return np.asarray(denoise(jnp.asarray(x), jnp.asarray(t)).eps)

    past = []
    for t, s in itertools.pairwise(times):
        past.insert(0, eps(x, t))
        combined, middle = (
            np.tensordot([55 / 24, -59 / 24, 37 / 24, -9 / 24][: len(past)], past[:4], axes=1),
            (t + s) / 2,
        )
        if len(past) < 4:
            second = eps(transfer(x, past[0], t, middle), middle)
            third = eps(transfer(x, second, t, middle), middle)
            combined = (past[0] + 2 * second + 2 * third + eps(transfer(x, third, t, s), s)) / 6
        x = transfer(x, combined, t, s)
    return x


@pytest.mark.slow
def test_the_warm_up_of_pndm_is_unstable_where_its_first_step_is_long():
    """On iDDPM σ/α falls from 20,000 to 41 in the first of 64 equal steps in t: the paper's formulas do the same."""
    with jax.enable_x64(True):
        sde, x = SDES["iddpm"], np.array([[1.0, -0.5], [-2.0, 0.3]])
        data = GaussianMixture(jnp.ones(1), jnp.asarray(MEAN), jnp.asarray(STD))
        denoise, errors = data.denoise(sde), {}
        exact = solve(solvers.DPMSolver(), sde, jnp.asarray(x), *padded(GRIDS["log_snr_uniform"](sde, 100).times(sde)))
        for kind in ("uniform", "edm_rho"):
            times = GRIDS[kind](sde, 64).times(sde)
            theirs = pndm_by_the_paper(sde, jax.jit(denoise), x, times)
            for warm_up in ("runge_kutta", "plms"):
                ours = solve(solvers.PNDM(warm_up), sde, jnp.asarray(x), *padded(times))
                errors[kind, warm_up] = float(np.abs(ours - exact).max())
                if warm_up == "runge_kutta":
                    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    assert errors["uniform", "runge_kutta"] > 1000
    assert errors["uniform", "plms"] < 1
    assert max(errors["edm_rho", warm_up] for warm_up in ("runge_kutta", "plms")) < 0.05


def padded(times):
    """(times as `solve` takes them, their number of steps)."""
    return np.pad(times, (0, LENGTH + 1 - len(times)), mode="edge"), len(times) - 1
