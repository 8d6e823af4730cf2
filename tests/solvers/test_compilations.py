"""One program for each solver: other numbers of steps, noise, schedules, guidance and grids compile nothing again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sdes
from score_sde.denoising.dynamics import Denoise
from score_sde.denoising.estimate import Estimate
from score_sde.denoising.gaussian_mixture import GaussianMixture
from score_sde.internal.pytree import pytree
from score_sde.solvers import grids, sample
from tests import ground_truth
from tests.conformance import SOLVERS, STOCHASTIC
from tests.solvers.test_sample import compilations

KEY = jax.random.key(6)
MIXTURE = GaussianMixture(*(jnp.asarray(part, jnp.float32) for part in ground_truth.POINTS))
EVERY = SOLVERS | STOCHASTIC
CI = ("dpm_solver_pp_2m", "unipc", "sde", "sa", "ancestral_2m", "churn", "restart", "hook")


@pytree
class Guided(Denoise):
    """denoise with ε̂ scaled: a guidance, whose scale is a number."""

    denoise: object
    scale: float

    @property
    def sde(self):
        return self.denoise.sde

    def __call__(self, x, t):
        x0, eps = self.denoise(x, t)
        return Estimate(x0 * (2 - self.scale), eps * self.scale)


def changed(solver, factor):
    """The solver with every float in it times the factor."""
    return jax.tree.map(lambda v: v * factor if isinstance(v, float) and np.isfinite(v) else v, solver)


@pytest.mark.few(2)
@pytest.mark.parametrize("name", [n if n in CI else pytest.param(n, marks=pytest.mark.slow) for n in EVERY])
def test_nothing_is_compiled_again(name):
    def draw(steps, value, kind):
        sde = sdes.VP(beta_max=20.0 - value)
        denoise, solver = Guided(MIXTURE.denoise(sde), 1.0 + 0.01 * value), changed(EVERY[name], 1 - 0.02 * value)
        return np.asarray(sample(KEY, denoise, solver, kind(steps), (4, 2), first_index=steps).x)

    def ending(kind):
        return lambda n: kind(num_steps=n, start=0.999, end=0.01, to_zero=name == "denoise_last")

    def restarted(n):
        return grids.WithRestarts(grids.Uniform(n, end=0.01), grids.Uniform(n), 0.2, 0.5, repeats=n % 3)

    kinds = [
        ending(kind)
        for kind in (
            grids.Uniform,
            grids.Shifted,
            grids.ArctanUniform,
            grids.AlignYourSteps,
        )
    ]
    kinds += [restarted] if name == "restart" else []
    first = [draw(4, 0.0, kind) for kind in kinds]
    with compilations() as seen:
        others = [draw(5 + 3 * i, 1.0 + i, kind) for i, kind in enumerate(kinds)]
    assert not seen
    assert all(np.abs(a - b).max() > 1e-4 for a, b in zip(first, others, strict=True))
