"""Replacement: noise up to the level of x_t is added to the known part of x0, which then replaces that part of x_t."""

from typing import Any

import jax

from score_sde.denoising.dynamics import Denoise
from score_sde.guidance.inverse.base import measurement_of
from score_sde.guidance.inverse.spectral import replaced, seen
from score_sde.internal.pytree import pytree
from score_sde.solvers import noise
from score_sde.solvers.base import Batch, Keys, Scalar, Solver, Step, Wrapper
from score_sde.solvers.sde.ancestral import Ancestral


@pytree
class Replacement(Wrapper):
    """`solver`'s step from x_t, with the measured part of x_t replaced by α y + √(σ² − α² σ_y²) z, with fresh z.

    It covers inpainting, colorization and every operator with a known singular value decomposition.
    The rest of x_t is not changed. A part that is measured with more noise than x_t has is left to
    the model. In a step that ends at σ = 0, the measured part of the result is y itself, if y has
    no noise. The unmeasured part is the model's last denoising. The 2021 code puts y in at the
    level of the step before, and its last denoising does not reach the unmeasured part.

    `Restart(Replacement(Ancestral()))` on a grid with `Jumps` is RePaint.

    Args:
      solver: the solver of the step after the replacement.
    Error: the measured part informs the rest only through x_t. So samples are too spread, and more
      steps do not help.
    Source: Song et al., arXiv 2011.13456, App. I.2; Lugmayr et al. (RePaint), arXiv 2201.09865, Eq.
      8.
    """

    solver: Solver = Ancestral()

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        sde, measured = denoise.sde, seen(self, measurement_of(self, denoise), x)
        x = replaced(noise.fold_in(key, 0), sde, x, t, measured)
        x, carry, evaluations = self.solver.step(noise.fold_in(key, 1), denoise, x, t, s, carry)
        last = noise.fold_in(key, 2)
        x = jax.lax.cond(sde.sigma(s) == 0, lambda: replaced(last, sde, x, s, measured), lambda: x)
        return x, carry, evaluations
