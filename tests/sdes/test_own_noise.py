"""An SDE outside of the package whose noise has its centre of mass at 0: every draw comes from `sde.noise`."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from score_sde import objectives, solvers
from score_sde.denoising.classifier import Classifier
from score_sde.denoising.denoiser import Denoiser
from score_sde.denoising.estimate import Estimate
from score_sde.denoising.function_denoiser import FunctionDenoiser
from score_sde.denoising.parameterizations import Epsilon
from score_sde.editing import sdedit
from score_sde.internal.pytree import pytree
from score_sde.likelihood import LogProb
from score_sde.objectives.loss_by_noise_level import NoiseLevelLoss
from score_sde.sdes import VP
from score_sde.tasks.classification import Classification
from tests.conformance import SOLVERS, STOCHASTIC

KEY, SHAPE = jax.random.key(3), (6, 5, 2)


@pytree
class CentredVP(VP):
    """VP of point clouds [n, d] whose mean over the points is 0, in data and noise."""

    def noise(self, key, shape, dtype=float):
        z = super().noise(key, shape, dtype)
        return z - jnp.mean(z, axis=1, keepdims=True)


@pytree
class SilentVP(VP):
    def noise(self, key, shape, dtype=float):
        return jnp.zeros(shape, dtype)


def gaussian(x, t):
    """The estimate for data N(0, I) within the subspace."""
    alpha, sigma = CentredVP().marginal(t)
    variance = alpha**2 + sigma**2
    ratios = (jnp.reshape(part / variance, (-1, 1, 1)) for part in (alpha, sigma))
    return Estimate(*(ratio * x for ratio in ratios))


CENTRED = FunctionDenoiser(CentredVP(), jax.tree_util.Partial(gaussian))
X0 = CentredVP().noise(jax.random.key(0), SHAPE)
LEVELS = np.asarray([0.3, 0.9], np.float32)
MORE = {"consistent": solvers.DPMSolverPP2MSDE(consistent=True), "adaptive": solvers.DPMSolver12(eta=1.0, h_init=0.2)}
ALL = {**SOLVERS, **STOCHASTIC, **MORE}
# One for each place of solvers/ that draws.
PLACES = "euler_maruyama reverse_diffusion ancestral ddim_stochastic predictor_corrector_norm 2m ancestral_ddim churn "
DRAWING = [*PLACES.split(), *MORE]


class Mean(nn.Module):
    """A million times the mean over the points, for all points or as the logits of two classes."""

    classify: bool = False

    @nn.compact
    def __call__(self, x, noise_label, condition=None, train=False):
        mean = 1e6 * jnp.mean(x, axis=1, keepdims=True)
        return mean[:, 0] if self.classify else mean + jnp.zeros_like(x)


def assert_centred(x):
    assert np.std(x) > 1e-3
    np.testing.assert_allclose(np.mean(x, axis=-2), 0, atol=2e-6 * np.abs(x).max())


def step_of(solver, x, t, s, denoise=CENTRED):
    keys = jax.random.split(KEY, len(x))
    return solver.step(keys, denoise, x, t, s, solver.init(x, 2))[0]


compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})(step_of)


@pytest.mark.few(4)
@pytest.mark.parametrize("name", DRAWING)
def test_a_step_stays_in_the_subspace_of_the_noise(name):
    assert_centred(compiled(ALL[name], X0, jnp.float32(0.6), jnp.float32(0.5)))


@pytest.mark.parametrize("name", ALL)
def test_no_solver_has_noise_from_elsewhere(name):
    """Where `noise` gives 0, a step has no random numbers of the shape of x."""
    silent = FunctionDenoiser(SilentVP(), jax.tree_util.Partial(gaussian))
    program = str(jax.make_jaxpr(step_of)(ALL[name], X0, jnp.float32(0.6), jnp.float32(0.5), silent))
    shapes = set(re.findall(r"random_bits\[[^]]*shape=\(([^)]*)\)", program))
    assert shapes <= {"2,"}, shapes  # the seeds of a consistent path


def test_a_step_up_of_a_restart_stays_in_the_subspace():
    assert_centred(compiled(solvers.Restart(solvers.Heun()), X0, jnp.float32(0.5), jnp.float32(0.6)))


def test_the_prior_and_the_whole_solve_stay_in_the_subspace():
    states = solvers.sample(KEY, CENTRED, solvers.Ancestral(), solvers.grids.Uniform(3), SHAPE, keep=(0, 3)).trajectory
    assert_centred(states)
    assert_centred(CentredVP().sample_prior(KEY, SHAPE))


@pytest.mark.parametrize("name", objectives.OBJECTIVES)
def test_training_draws_noise_of_the_subspace(name):
    draws = objectives.OBJECTIVES[name](CentredVP()).draw(KEY, {"x": X0, "condition": {}})
    assert_centred(draws["eps"])


def test_perturbed_and_edited_data_stay_in_the_subspace():
    x, eps = CentredVP().perturb(KEY, X0, 0.5)
    assert_centred(x)
    assert_centred(eps)
    assert_centred(sdedit(KEY, CENTRED, X0, solvers.DDIM(), solvers.grids.Uniform(2, 0.5, 0.1), first_index=3).x)


@pytest.mark.parametrize("task", ["denoiser", "classifier"])
def test_held_out_measurements_draw_noise_of_the_subspace(task):
    """A network that is far off where x is not in the subspace."""
    batch = {"x": X0, "index": jnp.arange(len(X0)), "is_real": jnp.ones(len(X0), bool)}
    if task == "denoiser":
        denoiser = Denoiser(CentredVP(), Epsilon(), Mean())
        batch["condition"] = {}
        assert NoiseLevelLoss(denoiser, LEVELS)(KEY, {"network": {}}, [batch]).mean.max() < 2
    else:
        classifier = Classifier(CentredVP(), Epsilon(), Mean(classify=True))
        batch["condition"] = {"label": jnp.zeros(len(X0), jnp.int32)}
        found = Classification(classifier, objectives.CrossEntropy(CentredVP()), 2).evaluate(
            KEY, {"network": {}}, [batch]
        )
        assert found["cross_entropy"] < 2


def test_a_likelihood_needs_the_density_of_the_prior():
    """N(0, I) of the whole space would be the wrong one, without a word."""
    with pytest.raises(ValueError, match="LogProb needs the density of the prior of CentredVP, whose noise is not N"):
        LogProb()(KEY, CENTRED, X0)
