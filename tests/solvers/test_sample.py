"""`sample`: its counts, compilations, kept states and errors; the same noise in any batch."""

import contextlib
import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sdes, solvers
from score_sde.denoising.estimate import Estimate
from score_sde.denoising.function_denoiser import FunctionDenoiser
from score_sde.denoising.gaussian_mixture import GaussianMixture
from score_sde.internal.pytree import pytree
from score_sde.solvers import loop, noise, sample
from score_sde.solvers.grids.base import MAX_STEPS
from tests import ground_truth
from tests.conformance import GRIDS, SDES, SOLVERS
from tests.solvers.chosen import chosen
from tests.solvers.draws import replace_noise

KEY = jax.random.key(3)
VP = sdes.VP()
GRID = solvers.grids.Uniform(12, end=0.01, to_zero=True)
MIXTURE = GaussianMixture(*(jnp.asarray(part, jnp.float32) for part in ground_truth.POINTS))
DENOISE = MIXTURE.denoise(VP)


def halved(x, t):
    alpha, sigma = VP.marginal(jnp.asarray(t))
    alpha, sigma = (jnp.reshape(c, (-1, *(1,) * (x.ndim - 1))) for c in (alpha, sigma))
    return Estimate(0.5 * x, (x - 0.5 * alpha * x) / sigma)


HALF = FunctionDenoiser(VP, halved)  # costs nothing


@contextlib.contextmanager
def compilations():
    """Counts what XLA compiles."""
    seen = []

    def listener(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listener)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listener)


# How often a solve of 12 steps evaluates the network: to 0, and not to 0.
EXPECTED = dict.fromkeys(SOLVERS, (12, 12)) | dict.fromkeys(
    ("heun", "edm_heun", "edm_heun_churn", "edm_heun_midpoint"), (23, 24)
)
EXPECTED |= {"predictor_corrector": (24, 24), "predictor_corrector_norm": (36, 36), "denoise_last": (23, None)}
EXPECTED |= {"probability_flow": (None, "measured")}


@pytest.mark.parametrize("name", SOLVERS)
def test_the_number_of_evaluations_is_the_true_one(name, monkeypatch):
    calls = []

    def counted(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return halved(x, t)

    replace_noise(monkeypatch, lambda key, x: jnp.zeros_like(x))  # compiles in a third of the time
    for to_zero, expected in zip((True, False), EXPECTED[name], strict=True):
        if expected is None:
            continue
        calls.clear()
        grid = solvers.grids.Uniform(12, end=0.01, to_zero=to_zero)
        samples = sample(
            KEY, FunctionDenoiser(VP, counted), SOLVERS[name], grid, (3, 4, 2, 1), x_start=jnp.ones((3, 4, 2, 1))
        )
        nfe = np.asarray(samples.nfe)
        jax.effects_barrier()
        assert nfe.shape == (3,)
        assert samples.x.dtype == jnp.float32
        assert np.all(np.isfinite(samples.x))
        assert nfe.max() == len(calls) == (expected if expected != "measured" else nfe.max())


SHARED = {
    "ddim": lambda value: solvers.DDIM(eta=value),
    "ancestral": lambda value: solvers.Ancestral(v=value),
    "edm_heun": lambda value: solvers.EDMHeun(S_churn=10 * value, S_max=5 + value),
    "predictor_corrector": lambda value: solvers.PredictorCorrector(
        solvers.EulerMaruyama(), solvers.Langevin(snr=0.1 + value, num_steps=1 + round(10 * value))
    ),
    "probability_flow": lambda value: solvers.ProbabilityFlow(rtol=1e-3 * (1 + value)),
}


@pytest.mark.few(2)
@pytest.mark.parametrize("name", SHARED)
def test_another_number_of_steps_noise_or_schedule_compiles_nothing(name):
    def draw(steps, value, grid, first_index):
        sde, solver = sdes.VP(beta_max=20.0 - value), SHARED[name](value)
        times = grid(steps, start=0.999 - 0.01 * value, end=0.01 + 0.01 * value)
        return sample(KEY, MIXTURE.denoise(sde), solver, times, (4, 2), first_index=first_index).x

    kinds = (solvers.grids.Uniform, solvers.grids.LogSNRUniform) if name == "ddim" else (solvers.grids.Uniform,)
    for grid in kinds:
        first = draw(3, 0.0, grid, 0)
    with compilations() as seen:
        others = [draw(steps, value, grid, steps) for grid in kinds for steps, value in ((4, 0.2), (9, 0.6), (16, 1.0))]
    assert not seen
    assert all(np.abs(np.asarray(other - first)).max() > 1e-3 for other in others)


def test_beyond_max_steps_one_more_program_serves_up_to_twice_as_many():
    def draw(steps):
        return sample(KEY, HALF, solvers.Euler(), solvers.grids.Uniform(steps, end=0.01), (1, 1)).nfe[0]

    assert draw(MAX_STEPS) == MAX_STEPS
    assert draw(MAX_STEPS + 1) == MAX_STEPS + 1
    with compilations() as seen:
        assert draw(2 * MAX_STEPS) == 2 * MAX_STEPS
    assert not seen


@pytest.mark.few(2)
@pytest.mark.parametrize("name", ["edm_heun_churn", "predictor_corrector_norm", "probability_flow"])
def test_an_image_is_the_same_alone_and_in_any_batch(name):
    """Its noise to the bit; the rest to rounding, for XLA orders a sum by the shape. In batches of one size, to the bit."""

    def draw(number, first_index=0):
        grid = solvers.grids.Uniform(1 if name == "probability_flow" else 12, end=0.01)
        samples = sample(KEY, DENOISE, SOLVERS[name], grid, (number, 2), first_index=first_index)
        return np.asarray(samples.x), np.asarray(samples.nfe)

    x, nfe = draw(6)
    assert len(np.unique(x)) == x.size
    for number, first_index in ((1, 5), (4, 2)):
        again, evaluations = draw(number, first_index)
        tolerance = 1e-4 if name == "probability_flow" else 2e-6  # of the solve, for its steps depend on the rounding
        np.testing.assert_allclose(again, x[first_index : first_index + number], atol=tolerance)
        assert np.abs(evaluations - nfe[first_index : first_index + number]).max() <= (name == "probability_flow") * 6
    np.testing.assert_array_equal(draw(6, 2)[0][:4], x[2:])


def test_an_adaptive_solve_of_one_image_does_not_see_its_neighbours():
    """Neighbours further and further out change neither the image nor its number of steps; theirs change."""
    solver, grid = solvers.ProbabilityFlow(), solvers.grids.Uniform(1, end=0.01)
    start = jnp.asarray([[0.3, -0.2], [1.0, 1.0]])
    near, *far = (
        sample(KEY, DENOISE, solver, grid, (2, 2), x_start=start.at[1].mul(factor))
        for factor in (1.0, 10.0, 100.0, 1000.0)
    )
    for other in far:
        np.testing.assert_array_equal(near.x[0], other.x[0])
        assert near.nfe[0] == other.nfe[0]
    assert len({int(each.nfe[1]) for each in (near, *far)}) > 1


def test_trajectory():
    def draw(keep):
        return sample(KEY, DENOISE, solvers.Ancestral(), GRID, (3, 2), keep=keep)

    every = draw(tuple(range(13)))
    assert every.trajectory.shape == (13, 3, 2)
    np.testing.assert_array_equal(every.trajectory[12], every.x)
    some = draw((0, 4, 11))
    np.testing.assert_array_equal(some.trajectory, every.trajectory[np.array([0, 4, 11])])
    np.testing.assert_array_equal(some.x, every.x)
    # The states between are those of the shorter solve.
    times = GRID.times(VP)
    start = every.trajectory[0]
    short = sample(KEY, DENOISE, solvers.Ancestral(), solvers.grids.Given(times[:5]), (3, 2), x_start=start)
    np.testing.assert_array_equal(short.x, every.trajectory[4])
    assert short.trajectory is None


def test_the_start_is_the_prior():
    """N(0, prior_std²) at t_max; at an earlier start as much less as σ is."""
    for sde, start, std in (
        (sdes.VE(), None, 50.0),
        (sdes.VE(), 0.5, np.sqrt(0.01 * 50.0)),
        (VP, None, 1.0),
        (sdes.EDM(), 8.0, 8.0),
    ):
        grid = solvers.grids.Uniform(1, start=start, end=1e-3)
        samples = sample(KEY, MIXTURE.denoise(sde), solvers.Euler(), grid, (4000, 2), keep=(0,))
        x = np.asarray(samples.trajectory[0], np.float64)
        assert abs(x.mean()) < 4 * std / np.sqrt(x.size)
        assert abs(x.std() / std - 1) < 4 / np.sqrt(2 * x.size)


def test_no_noise_of_a_step_is_the_start_or_another_steps():
    """Steps that only add noise to 0: the increments of the trajectory are N(0, I) and not correlated."""

    @pytree
    class Walk(solvers.Solver):
        def step(self, key, denoise, x, t, s, carry):
            draws = (noise.standard_normal(noise.fold_in(key, n), x) for n in (0, 1))
            return x + sum(draws), carry, 0

    states = sample(KEY, HALF, Walk(), solvers.grids.Uniform(6), (50, 40), keep=tuple(range(7))).trajectory
    states = np.asarray(states, np.float64).reshape(7, -1)
    increments = np.concatenate([states[:1], np.diff(states, axis=0) / np.sqrt(2)])
    correlation = np.cov(increments)
    assert np.abs(correlation - np.eye(7)).max() < 5 * np.sqrt(2 / states.shape[1])


def test_a_deterministic_solver_draws_nothing():
    """XLA drops the keys: no random bits (xor) in the compiled program of a solve from a given start."""

    def program(solver):
        times, start = np.linspace(1, 0.1, 1025, dtype=np.float32), jnp.ones((2, 3))
        args = (
            KEY,
            HALF,
            solver,
            times,
            np.int32(5),
            np.uint32(0),
            start,
            np.zeros(0, np.int32),
            (2, 3),
            None,
        )
        return loop._solve.lower(*args).compile().as_text()

    for solver in (solvers.Euler(), solvers.Heun()):
        assert not re.search(r"\bxor\(", program(solver))
    assert re.search(r"\bxor\(", program(solvers.Ancestral()))


def test_noise_that_is_off_is_not_drawn(monkeypatch):
    """η, churn and the last step's variance are traced, so it is at run time that nothing is drawn."""
    # Not a function that a program compiled without the counter knows.
    draws, fresh = [], FunctionDenoiser(VP, lambda x, t: halved(x, t))

    def counted(key, x):
        jax.debug.callback(lambda: draws.append(1))
        return noise.standard_normal(key, x)

    replace_noise(monkeypatch, counted)
    start = jnp.ones((2, 3))
    expected = (
        (solvers.DDIM(0.0), 0),
        (solvers.DDIM(1.0), 11),
        (solvers.EDMHeun(), 0),
        (solvers.EDMHeun(S_churn=1.0), 12),
    )
    for solver, number in expected:
        draws.clear()
        jax.block_until_ready(sample(KEY, fresh, solver, GRID, (2, 3), x_start=start))
        jax.effects_barrier()
        assert len(draws) == number, solver


def test_one_key_draws_for_the_whole_batch():
    x = jnp.ones((5, 4))
    args = HALF, x, jnp.asarray(0.5), jnp.asarray(0.4), ()
    one, *_ = solvers.EulerMaruyama().step(KEY, *args)
    several, *_ = solvers.EulerMaruyama().step(jax.random.split(KEY, 5), *args)
    assert one.shape == several.shape == x.shape
    assert len(np.unique(one)) == len(np.unique(several)) == x.size


def test_float64():
    with jax.enable_x64(True):
        for name in ("edm_heun_churn", "denoise_last"):
            samples = sample(KEY, HALF, SOLVERS[name], GRID, (2, 3), keep=(2,))
            assert samples.x.dtype == samples.trajectory.dtype == jnp.float64
            assert samples.nfe.dtype == jnp.int32


def test_sharded_over_a_mesh_the_images_are_the_same():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    args = KEY, DENOISE, solvers.Ancestral(), GRID, (4, 2)
    samples = sample(*args, sharding=sharding)
    assert samples.x.sharding.is_equivalent_to(sharding, 2)
    np.testing.assert_array_equal(samples.x, sample(*args).x)


@pytest.mark.few(2)
@pytest.mark.parametrize("name", ["ddim", "ancestral", "edm_heun", "euler_maruyama", "reverse_diffusion"])
def test_steps_to_zero_are_finite(name):
    """DDIM, Ancestral and EDM's Heun may also start at t_max, where `Flow` and `Cosine` have lost the signal."""

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def step(sde, x, t, s):
        carry = SOLVERS[name].init(x, 5)
        return SOLVERS[name].step(KEY, MIXTURE.denoise(sde), x, t, s, carry)[0]

    for sde_name, sde in SDES.items():
        start = None if name in ("ddim", "ancestral", "edm_heun") else float(GRIDS["uniform"](sde, 2).start)
        times = solvers.grids.Uniform(5, start, 1e-3 * sde.t_max, to_zero=True).times(sde)
        x = sde.sigma(jnp.asarray(times[0])) * jnp.ones((3, 2))
        for t, s in itertools.pairwise(times):
            x = step(chosen(sde_name), x, t, s)
            assert np.all(np.isfinite(x)), (sde_name, t, s)


def test_errors():
    def draw(shape=(2, 2), solver=None, sde=VP, grid=GRID, **options):
        sample(KEY, MIXTURE.denoise(sde), solver or solvers.DDIM(), grid, shape, **options)

    with pytest.raises(ValueError, match=r"shape needs \(number of images, \*shape of one image\).*got \(4,\)"):
        draw(shape=(4,))
    with pytest.raises(ValueError, match="all at least 1, got"):
        draw(shape=(0, 3))
    with pytest.raises(ValueError, match=r"x_start needs the shape \(2, 2\), got \(3, 2\)"):
        draw(x_start=jnp.zeros((3, 2)))
    for keep in ((3, 13), (-1,), (5, 4), (4, 4)):
        with pytest.raises(ValueError, match="keep needs increasing steps from 0 to num_steps=12"):
            draw(keep=keep)
    with pytest.raises(
        ValueError, match=r"EulerMaruyama needs a finite f\(t\), which Flow lacks at t=1.0; start the grid"
    ):
        draw(solver=solvers.EulerMaruyama(), sde=sdes.Flow(), grid=solvers.grids.Uniform(5))
    wrapped = solvers.DenoiseLast(solvers.PredictorCorrector(solvers.EulerMaruyama(), solvers.Langevin()))
    with pytest.raises(ValueError, match="EulerMaruyama needs a finite"):
        draw(solver=wrapped, sde=sdes.Cosine(), grid=GRID)
    with pytest.raises(ValueError, match="DenoiseLast needs a grid that goes to 0"):
        draw(solver=wrapped, grid=solvers.grids.Uniform(5))
    with pytest.raises(
        ValueError, match="DenoiseLast needs a step of its solver before the last one, got 1 step; take 2"
    ):
        draw(solver=wrapped, grid=solvers.grids.Given((0.9, 0.0)))
    with pytest.raises(ValueError, match="ProbabilityFlow needs a grid that ends where σ > 0, got σ=0 at t=0.0"):
        draw(solver=solvers.ProbabilityFlow())
    with pytest.raises(ValueError, match="This grid needs 0 <= end < start <= t_max=1.0, got start=2.0"):
        draw(grid=solvers.grids.Uniform(5, start=2.0))
