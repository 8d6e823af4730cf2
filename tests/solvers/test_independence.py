"""The noise of a solve: of its start, of each step, of a wrapper and the solver inside it, of each image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import editing, sdes, solvers
from score_sde.denoising.estimate import Estimate
from score_sde.denoising.function_denoiser import FunctionDenoiser
from score_sde.denoising.gaussian_mixture import GaussianMixture
from score_sde.internal.pytree import pytree
from score_sde.solvers import brownian, noise
from score_sde.solvers.base import Solver
from tests.independence import assert_all_independent, assert_independent

NUMBER = 3000
KEYS = jax.random.split(jax.random.key(0), NUMBER)
NOTHING = jnp.zeros((NUMBER, 2))
SDE = sdes.EDM()
T, S = jnp.float32(3.0), jnp.float32(2.0)


@pytree
class Still(Solver):
    """Leaves x as it is: what is seen is the noise of the wrapper."""

    def step(self, key, denoise, x, t, s, carry):
        return x, carry, 0


@pytree
class Loud(Solver):
    """Ignores x and returns its own noise, a million times what a wrapper adds."""

    def step(self, key, denoise, x, t, s, carry):
        return 1e6 * noise.like(key, denoise.sde, x), carry, 0


@jax.jit
def step_of(solver, x=NOTHING, t=T, s=S, denoise=None):
    carry = solver.init(x, 4)
    return solver.step(KEYS, nothing() if denoise is None else denoise, x, t, s, carry)[0]


def nothing(sde=SDE):
    """A denoiser that says x̂0 = x and ε̂ = 0."""
    return FunctionDenoiser(sde, jax.tree_util.Partial(lambda x, t: Estimate(x, jnp.zeros_like(x))))


AROUND = {
    "churn": lambda inner: solvers.Churn(inner, 10.0),
    "step_scale": lambda inner: solvers.StepScale(inner, 1.0),
    "ancestral_steps": lambda inner: solvers.AncestralSteps(inner),
    "hook": lambda inner: solvers.Hook(inner, lambda key, x, t: x + noise.standard_normal(key, x)),
    "corrected": lambda inner: solvers.PredictorCorrector(inner, solvers.AnnealedLangevin()),
    "correcting": lambda inner: solvers.PredictorCorrector(solvers.EulerMaruyama(), inner),
}


@pytest.mark.few(2)
@pytest.mark.parametrize("name", AROUND)
def test_a_wrapper_and_the_solver_inside_draw_apart(name):
    outer, inner = step_of(AROUND[name](Still())), step_of(AROUND[name](Loud()))
    assert np.std(outer) > 0.01 and abs(np.std(inner) / 1e6 - 1) < 0.05
    assert_independent(outer=outer, inner=inner)


def test_the_start_every_step_and_every_image_draw_apart():
    """Of a solver whose state after a step is the noise of the step."""
    samples = solvers.sample(
        jax.random.key(1), nothing(), Loud(), solvers.grids.EDMRho(4), (NUMBER, 2), keep=(0, 1, 2, 3, 4)
    )
    states = np.asarray(samples.trajectory)
    assert_all_independent(states.transpose(1, 0, 2))
    for image in (1, 2):
        assert_independent(image=states[:, :-image].transpose(1, 0, 2), later=states[:, image:].transpose(1, 0, 2))


def test_solves_of_other_keys_and_indices_draw_apart():
    def solve(seed, first_index):
        args = nothing(), Loud(), solvers.grids.EDMRho(2), (NUMBER, 2)
        return solvers.sample(jax.random.key(seed), *args, first_index=first_index, keep=(0, 2)).trajectory

    one, others = solve(0, 0), [solve(1, 0), solve(0, NUMBER), solve(2, NUMBER)]
    for other in others:
        assert_independent(one=np.moveaxis(one, 0, 1), other=np.moveaxis(other, 0, 1))
    np.testing.assert_array_equal(solve(0, 7)[:, :-7], one[:, 7:])


def test_the_start_of_an_edit_and_its_steps_draw_apart():
    """The start is seen after a step that leaves it as it is, the noise of each step where it is all that is left."""
    zeros, times = np.zeros((NUMBER, 2), np.float32), (5.0, 4.0, 3.0, 2.0)

    def edited(solver, steps):
        grid = solvers.grids.Given(times[: steps + 1])
        return editing.sdedit(jax.random.key(3), nothing(), zeros, solver, grid).x

    assert_independent(start=edited(Still(), 1), **{f"step {n}": edited(Loud(), n) for n in (1, 2, 3)})


@pytest.mark.parametrize("corrector", [solvers.AnnealedLangevin, solvers.Langevin])
def test_each_step_of_langevin_draws_anew(corrector):
    """Without a score x only adds up what was drawn, by the same step size for ‖ε̂‖ = 0."""
    reached = [step_of(corrector(num_steps=number)) for number in (1, 2, 3)]
    drawn = [reached[0], reached[1] - reached[0], reached[2] - reached[1]]
    assert_independent(first=drawn[0], second=drawn[1], third=drawn[2])


def test_the_pieces_of_a_step_draw_apart():
    """N to λ + 0.3 and to λ + 0.8 share the first piece; what is added to it is new."""
    gaps = jnp.float32(0.3), jnp.float32(0.8)
    (first, second), _ = brownian.increments(KEYS, SDE, NOTHING, (), (jnp.float32(0.0), *gaps), gaps)
    assert_independent(first=first, piece=second - np.exp(-0.5) * first)


def test_along_a_path_disjoint_steps_are_independent():
    """N of two neighbouring steps, from one path; and the paths of different images."""
    path = brownian.init(NOTHING, consistent=True)
    steps = []
    for low in (-0.4, 0.1, 2.0):
        levels, gaps = (jnp.float32(low), jnp.float32(low + 0.5)), (jnp.float32(0.5),)
        (drawn,), path = brownian.increments(KEYS, SDE, NOTHING, path, levels, gaps)
        steps.append(np.asarray(drawn))
    assert_independent(first=steps[0], second=steps[1], third=steps[2])
    assert_independent(image=steps[0][:-1], neighbour=steps[0][1:])


def test_rotation_and_shift_of_a_cloud_are_independent():
    cloud = jnp.broadcast_to(
        jnp.array([[1.0, 0.0, 0.0], [-1.0, 2.0, 0.0], [0.0, -2.0, 3.0], [0.0, 0.0, -3.0]]), (NUMBER, 4, 3)
    )
    moved = np.asarray(solvers.RandomRigidMotion(1.0)(KEYS, cloud, T))
    shift = moved.mean(axis=1)
    assert_independent(shift=shift, rotated=(moved - shift[:, None])[:, :2])
    assert_all_independent(shift)


def test_component_and_noise_of_a_mixture_are_independent():
    far = GaussianMixture(jnp.full(4, 0.25), 100.0 * jnp.arange(4.0)[:, None], jnp.ones((4, 1)))
    x = np.asarray(jax.vmap(lambda key: far.sample(key, 5))(KEYS))
    component = np.round(x / 100)
    assert_independent(component=component, noise=x - 100 * component)
    assert_all_independent(component)


def test_attempts_of_an_adaptive_step_draw_apart():
    """The variance of a Gaussian of data, which a noise drawn twice would miss, though each attempt alone has the right one."""
    data = GaussianMixture(jnp.ones(1), jnp.zeros((1, 2)), jnp.full((1, 2), 0.5))
    solver = solvers.DPMSolver12(rtol=0.05, atol=0.05, eta=1.0)
    grid = solvers.grids.Given((10.0, 0.01))  # one step of the grid, many attempts
    x = solvers.sample(jax.random.key(5), data.denoise(SDE), solver, grid, (NUMBER, 2)).x
    variance, exact = np.asarray(x).var(axis=0), 0.25 + 1e-4
    assert np.all(np.abs(variance / exact - 1) < 0.05 + 5 * np.sqrt(2 / NUMBER)), variance
