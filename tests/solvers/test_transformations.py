"""A solve within other transformations: jit, vmap, reverse mode, and a program that is exported and loaded again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sdes, solvers
from score_sde.denoising.dynamics import Denoise
from score_sde.denoising.estimate import Estimate
from score_sde.denoising.gaussian_mixture import GaussianMixture
from score_sde.internal.pytree import pytree
from score_sde.likelihood import ExactTrace, Hutchinson, LogProb
from score_sde.solvers import sample
from score_sde.solvers.adaptive_ode import Adaptive
from tests import ground_truth
from tests.conformance import DETERMINISTIC, SOLVERS, STOCHASTIC

KEY, VP = jax.random.key(2), sdes.VP()
MIXTURE = GaussianMixture(*(jnp.asarray(part, jnp.float32) for part in ground_truth.POINTS))
DENOISE = MIXTURE.denoise(VP)
EVERY = SOLVERS | DETERMINISTIC | STOCHASTIC | {"consistent": solvers.SASolver(consistent=True)}
ADAPTIVE = {name for name, solver in EVERY.items() if solver.chooses_steps()}
# One of each way to loop, branch and remember; the others with --slow.
CI = {
    "heun",
    "edm_heun_churn",
    "probability_flow",
    "dpm_solver_23",
    "predictor_corrector_norm",
    "unipc",
    "sa",
    "restart",
}
STEPS = solvers.grids.EDMRho(5, 0.95, 0.02)


def each(names):
    return [pytest.param(name, marks=() if name in CI else pytest.mark.slow) for name in names]


def grid_of(name):
    if name in ADAPTIVE:
        return solvers.grids.Uniform(1, 0.95, 0.02)
    return solvers.grids.WithRestarts(STEPS, solvers.grids.Uniform(2), 0.3, 0.6) if name == "restart" else STEPS


def solve(name, key=KEY, denoise=DENOISE, number=3, **options):
    return sample(key, denoise, EVERY[name], grid_of(name), (number, 2), **options)


@pytest.mark.few(2)
@pytest.mark.parametrize("name", each(EVERY))
def test_within_jit_and_written_and_read_again(name):
    """Adaptive solvers too: they leave no callback in the program. `failed` is part of the result."""
    expected = solve(name)
    program = jax.export.export(jax.jit(lambda key: solve(name, key)._asdict()))(KEY)
    again = jax.export.deserialize(program.serialize()).call(KEY)
    np.testing.assert_allclose(again["x"], expected.x, atol=1e-4 if name in ADAPTIVE else 1e-5)
    np.testing.assert_array_equal(again["nfe"], expected.nfe)
    assert not np.any(again["failed"])


SYMBOLIC = ["sa", "probability_flow", *(pytest.param(n, marks=pytest.mark.slow) for n in ("unipc", "dpm_solver_12"))]


@pytest.mark.few(1)
@pytest.mark.parametrize("name", SYMBOLIC)
def test_an_exported_solve_for_any_number_of_images(name):
    """The number of images is a symbol; the first image's index is an argument."""
    (number,) = jax.export.symbolic_shape("n")

    def drawn(key, first_index, like):
        return solve(name, key, number=like.shape[0], first_index=first_index).x

    like, index = jax.ShapeDtypeStruct((number,), jnp.float32), jax.ShapeDtypeStruct((), jnp.uint32)
    program = jax.export.export(jax.jit(drawn))(jax.eval_shape(lambda: KEY), index, like)
    again = jax.export.deserialize(program.serialize())
    expected = solve(name, number=3).x
    np.testing.assert_allclose(again.call(KEY, jnp.uint32(0), jnp.zeros(3)), expected, atol=1e-4)
    np.testing.assert_allclose(again.call(KEY, jnp.uint32(1), jnp.zeros(2)), expected[1:], atol=1e-4)


@pytest.mark.few(1)
@pytest.mark.parametrize("name", ["edm_heun_churn", "probability_flow", "dpm_solver_12"])
def test_within_vmap(name):
    keys = jax.random.split(KEY, 2)
    several = jax.vmap(lambda key: solve(name, key).x)(keys)
    for key, x in zip(keys, several, strict=True):
        np.testing.assert_allclose(x, solve(name, key).x, atol=1e-4)


@pytest.mark.few(2)
@pytest.mark.parametrize("grid", [STEPS, solvers.grids.Upward(STEPS), solvers.grids.Given([0.9, 0.4, 0.1])])
def test_a_denoiser_that_is_an_argument(grid):
    """Its SDE is then traced, and with it the times."""

    def run(denoise):
        return sample(KEY, denoise, solvers.DDIM(), grid, (3, 2)).x

    for sde in (VP, sdes.VP(beta_max=12.0)):
        np.testing.assert_allclose(jax.jit(run)(MIXTURE.denoise(sde)), run(MIXTURE.denoise(sde)), rtol=1e-5, atol=1e-5)


def test_numbers_that_have_to_be_known():
    restarts = solvers.grids.WithRestarts(STEPS, solvers.grids.Uniform(2), 0.3, 0.6)
    with pytest.raises(TypeError, match=r"WithRestarts needs to know the numbers of VP, .* close over the SDE"):
        jax.jit(lambda denoise: sample(KEY, denoise, solvers.Restart(solvers.DDIM()), restarts, (3, 2)).x)(DENOISE)
    with pytest.raises(
        TypeError, match=r"EDMRho is traced here, but its numbers must be known\. .* close over the grid"
    ):
        jax.jit(lambda grid: sample(KEY, DENOISE, solvers.DDIM(), grid, (3, 2)).x)(STEPS)


@pytree
class NaNFrom(Denoise):
    """The mixture's, but NaN for images that begin with x > limit."""

    limit: float
    sde = VP

    def __call__(self, x, t):
        bad = jnp.where(x[:, :1] > self.limit, jnp.nan, 0.0)
        return Estimate(*(each + bad for each in DENOISE(x, t)))


@pytest.mark.few(2)
@pytest.mark.parametrize("name", ["probability_flow", "dpm_solver_12", "wrapped", "predictor"])
def test_a_failed_image_is_flagged_within_jit_and_an_error_outside(name):
    wrapped = {
        "wrapped": solvers.Hook(solvers.AncestralSteps(solvers.ProbabilityFlow()), lambda key, x, t: x),
        "predictor": solvers.PredictorCorrector(solvers.DPMSolver12(), solvers.AnnealedLangevin()),
    }
    solver, x_start = wrapped.get(name, EVERY.get(name)), jnp.asarray([[0.1, 0.2], [9.0, 0.0], [-0.3, 1.0]])
    fields = {"grid": solvers.grids.Uniform(1, 0.95, 0.02), "shape": (3, 2), "x_start": x_start}
    samples = jax.jit(lambda: sample(KEY, NaNFrom(8.0), solver, **fields))()
    np.testing.assert_array_equal(samples.failed, [False, True, False])
    assert np.all(np.isnan(samples.x[1])) and np.all(np.isfinite(samples.x[np.array([0, 2])]))
    with pytest.raises(RuntimeError, match="Adaptive did not reach the end for 1 of 3 images"):
        sample(KEY, NaNFrom(8.0), solver, **fields)


def test_nan_of_a_solver_with_fixed_steps_is_flagged():
    samples = sample(
        KEY, NaNFrom(0.0), solvers.DDIM(), STEPS, (3, 2), x_start=jnp.asarray([[-1.0, 0.0], [1.0, 0.0], [-2.0, 0.0]])
    )
    assert samples.failed[1] and np.all(np.isnan(samples.x[1]))


def test_a_likelihood_within_jit_and_written_and_read_again():
    x = jnp.asarray([[0.1, 0.2], [9.0, 0.0]])
    log_prob = LogProb(Adaptive(1e-4, 1e-4), 1e-2, Hutchinson(2))
    expected = log_prob(KEY, DENOISE, x)
    program = jax.export.export(jax.jit(lambda x: log_prob(KEY, DENOISE, x)._asdict()))(x)
    again = jax.export.deserialize(program.serialize()).call(x)
    np.testing.assert_allclose(again["log_prob"], expected.log_prob, rtol=1e-4)
    broken = LogProb(Adaptive(1e-4, 1e-4), 1e-2, ExactTrace())
    density = jax.jit(lambda x: broken(KEY, NaNFrom(8.0), x))(x)
    np.testing.assert_array_equal(density.failed, [False, True])
    np.testing.assert_array_equal(np.isnan(density.log_prob), [False, True])
    with pytest.raises(RuntimeError, match="Adaptive did not reach the end for 1 of 2 images"):
        broken(KEY, NaNFrom(8.0), x)


@pytest.mark.few(2)
@pytest.mark.parametrize("name", each(sorted(EVERY.keys() - ADAPTIVE)))
def test_reverse_mode_agrees_with_finite_differences(name):
    """In the start and in a parameter of the denoiser, from near the prior to σ = 0, where h is infinite."""
    with jax.enable_x64(True):
        x, direction = jnp.asarray([[0.4, -1.1], [0.2, 0.7]]), jnp.asarray([[0.3, -1.0], [0.7, 0.2]])
        weights, means, stds = (jnp.asarray(part) for part in ground_truth.POINTS)

        def loss(x, scale, differentiable):
            mixture = jax.tree.unflatten(jax.tree.structure(MIXTURE), (weights, scale * means, stds))
            options = {"number": 2, "x_start": x, "differentiable": differentiable}
            return jnp.sum(jnp.sin(solve(name, denoise=mixture.denoise(VP), **options).x))

        of_x, of_scale = jax.jit(jax.grad(loss, argnums=(0, 1)), static_argnums=2)(x, jnp.asarray(1.0), True)
        value, h = jax.jit(loss, static_argnums=2), 1e-5
        differences = [
            (value(x + sign * h * direction, jnp.asarray(1.0), False), value(x, jnp.asarray(1.0 + sign * h), False))
            for sign in (1, -1)
        ]
        along_x, along_scale = ((up - down) / (2 * h) for up, down in zip(*differences, strict=True))
        assert float(jnp.sum(of_x * direction)) == pytest.approx(float(along_x), rel=1e-5, abs=1e-8)
        assert float(of_scale) == pytest.approx(float(along_scale), rel=1e-5, abs=1e-8)


@pytest.mark.slow
def test_a_solve_with_a_reverse_mode_is_the_same_solve():
    """Its noise, kept states and counts too; each step is computed anew on the way back."""
    for name in ("edm_heun_churn", "predictor_corrector_norm", "sa"):
        ours, theirs = (solve(name, keep=(0, 2), differentiable=value) for value in (True, False))
        np.testing.assert_allclose(ours.x, theirs.x, atol=2e-6)
        np.testing.assert_allclose(ours.trajectory, theirs.trajectory, atol=2e-6)
        np.testing.assert_array_equal(ours.nfe, theirs.nfe)
    program = jax.make_jaxpr(jax.grad(lambda x: jnp.sum(solve("heun", x_start=x, differentiable=True).x)))(
        jnp.ones((3, 2))
    )
    assert "checkpoint" in str(program) or "remat" in str(program)


@pytest.mark.parametrize(
    "solver", [solvers.ProbabilityFlow(), solvers.DPMSolver12(), solvers.Churn(solvers.DPMSolver23())]
)
def test_solvers_that_choose_their_steps_have_no_reverse_mode(solver):
    name = type(solver).__name__
    with pytest.raises(
        ValueError, match=rf"{name} chooses its steps while it runs, .* no reverse mode\. .* such as Heun"
    ):
        sample(KEY, DENOISE, solver, solvers.grids.Uniform(1, 0.95, 0.02), (3, 2), differentiable=True)
