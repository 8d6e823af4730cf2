"""DPS: diffusion posterior sampling."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.denoising.dynamics import Denoise, Evaluations
from score_sde.denoising.estimate import Estimate
from score_sde.guidance.inverse.base import Images, measurement_of, residual
from score_sde.internal.per_example import Weight, sum_of_squares
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

    Args:
      solver: the solver of the step that is corrected.
      scale: the size of the correction.
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

        def loss(x0):
            return root(sum_of_squares(residual(measurement, x0)))

        return corrected(self.solver, self.scale, loss, key, denoise, x, t, s, carry)


def root(square: Float[Array, " b"]) -> Float[Array, " b"]:
    """√square, with the gradient 0 where the square is 0 (and the value 1 there)."""
    return jnp.sqrt(jnp.where(square > 0, square, 1))


def corrected(
    solver: Solver,
    scale: Scalar | float,
    loss: Callable[[Images], Float[Array, " b"]],
    key: Keys,
    denoise: Denoise,
    x: Batch,
    t: Scalar,
    s: Scalar,
    carry: Any,
) -> Step:
    """The step of `solver`, minus scale ∇ loss(x̂0(x_t)), of each image and at x_t."""

    def loss_of(x):
        estimate = denoise(x, t)
        return loss(estimate.x0), estimate

    value, pullback, estimate = jax.vjp(loss_of, x, has_aux=True)
    (gradient,) = pullback(jnp.ones_like(value))
    known = Known(denoise, x, t, estimate)
    moved, carry, evaluations = solver.step(key, known, x, t, s, carry)
    if not known.was_asked:
        evaluations = evaluations + denoise.evaluations(t)
    return moved - scale * gradient, carry, evaluations


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

    @property
    def weight(self) -> Weight:
        return self._denoise.weight

    def evaluations(self, t: Time) -> Evaluations:
        return self._denoise.evaluations(t)

    def __call__(self, x: Images, t: Time) -> Estimate:
        if x is self._at[0] and t is self._at[1]:
            self.was_asked = True
            return self._estimate
        return self._denoise(x, t)
