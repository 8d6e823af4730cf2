"""DPS: diffusion posterior sampling."""

from typing import Any

import jax
import jax.numpy as jnp

from score_sde.denoising.dynamics import Denoise, Evaluations
from score_sde.denoising.estimate import Estimate
from score_sde.guidance.inverse.base import Images, measurement_of, residual
from score_sde.internal.broadcast import expand_like
from score_sde.internal.per_example import norm
from score_sde.internal.pytree import pytree
from score_sde.sdes.base import SDE, Time
from score_sde.solvers.base import Batch, Keys, Scalar, Solver, Step, Wrapper
from score_sde.solvers.sde.ancestral import Ancestral


@pytree
class DPS(Wrapper):
    """x_s = `solver`'s step − scale ∇ ‖y − A(x̂0(x_t))‖, with the norm and the gradient of each image, at x_t.

    The operator may be nonlinear. The size of the correction does not depend on the step, so a good
    `scale` depends on the number of steps. The paper takes 1000 steps with `Ancestral`, and scales
    from 0.3 to 1.

    The authors' code takes one norm over the whole batch, and so do azula's and others'. There an
    image depends on its neighbours, and a larger batch makes each correction weaker. This code
    agrees with theirs for a batch of one.

    Raises: ValueError unless scale >= 0.
    Source: Chung et al., arXiv 2209.14687, Algorithm 1, with ζ_i of App. C.2. The gradient of the
      norm is taken from its code. The paper prints the gradient of the squared norm over the norm;
      with it, `scale` is twice ζ'.
    """

    solver: Solver = Ancestral()
    scale: float = 1.0

    def __post_init__(self):
        if not self.scale >= 0:
            raise ValueError(f"DPS needs scale >= 0, got scale={self.scale}.")

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        measurement = measurement_of(self, denoise)

        def error_of(x):
            estimate = denoise(x, t)
            return residual(measurement, estimate.x0), estimate

        error, pullback, estimate = jax.vjp(error_of, x, has_aux=True)
        size = expand_like(norm(error), error)
        gradient = pullback(error / jnp.where(size > 0, size, 1))[0]
        known = Known(denoise, x, t, estimate)
        moved, carry, evaluations = self.solver.step(key, known, x, t, s, carry)
        if not known.was_asked:
            evaluations = evaluations + denoise.evaluations(t)
        return moved - self.scale * gradient, carry, evaluations


class Known(Denoise):
    """`denoise` with a known estimate at (x, t). A step that starts there does not compute the estimate again.

    x and t are compared as objects of the program that is being built, not by their values.
    """

    def __init__(self, denoise: Denoise, x: Images, t: Time, estimate: Estimate):
        self._denoise, self._at, self._estimate = denoise, (x, t), estimate
        self.was_asked = False

    @property
    def sde(self) -> SDE:
        return self._denoise.sde

    def evaluations(self, t: Time) -> Evaluations:
        return self._denoise.evaluations(t)

    def __call__(self, x: Images, t: Time) -> Estimate:
        if x is self._at[0] and t is self._at[1]:
            self.was_asked = True
            return self._estimate
        return self._denoise(x, t)
