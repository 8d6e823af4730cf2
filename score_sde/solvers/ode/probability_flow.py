"""The probability-flow ODE dx/dt = α' x̂0 + σ' ε̂: fixed steps of orders 1 and 2, and adaptive steps."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from score_sde.denoising.dynamics import Denoise, Evaluations, velocity
from score_sde.internal.pytree import pytree, static
from score_sde.sdes.base import SDE
from score_sde.solvers.adaptive_ode import Adaptive
from score_sde.solvers.base import Batch, Keys, Scalar, Solver, Step, Times


@pytree
class Euler(Solver):
    """x_s = x + (s − t) dx/dt.

    Error: order 1 in t. On `Flow` it equals `DDIM`. On other SDEs `DDIM` is better, above all near
      t = 0.
    Source: arXiv 2011.13456, Eq. 13.
    """

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        sde = denoise.sde
        return x + (s - t) * velocity(sde, denoise(x, t), t), carry, denoise.evaluations(t)


@pytree
class Heun(Solver):
    """x_s = x + (s − t)/2 (d(x, t) + d(x + (s − t) d(x, t), s)), with d = dx/dt.

    At σ(s) = 0 there is no noise to estimate. A step to σ(s) = 0 is therefore an Euler step, with
    one evaluation instead of two.

    Error: order 2 in t.
    Source: Karras et al., arXiv 2206.00364, Algorithm 1.
    """

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        x, evaluations = second_order(denoise, x, t, s, 1.0)
        return x, carry, evaluations


def second_order(
    denoise: Denoise, x: Batch, t: Scalar, s: Scalar, fraction: Scalar | float
) -> tuple[Batch, Evaluations]:
    """(x_s, evaluations) with x_s = x + h ((1 − 1/2c) d(x, t) + 1/2c d(x + c h d(x, t), t + c h)).

    h is s − t, and c is `fraction`: 1 is Heun's method, 1/2 the midpoint rule, 2/3 Ralston's
    method. Where σ(s) = 0, the second slope is not evaluated, and the step is an Euler step.

    Source: arXiv 2206.00364, Algorithm 3.
    """
    sde, step, possible = denoise.sde, s - t, denoise.sde.sigma(s) > 0
    last = 0.5 / jnp.asarray(fraction, x.dtype)
    offsets = jnp.stack([jnp.zeros_like(last), jnp.asarray(fraction, x.dtype)])
    weights = jnp.stack([jnp.where(possible, 1 - last, 1.0), last])

    def stage(carry, coefficients):
        slope, total, evaluations = carry
        offset, weight, runs = coefficients

        inner = t + offset * step

        def evaluate():
            return velocity(sde, denoise(x + offset * step * slope, inner), inner)

        slope = jax.lax.cond(runs, evaluate, lambda: jnp.zeros_like(x))
        evaluations = evaluations + jnp.where(runs, denoise.evaluations(inner), 0)
        return (slope, total + weight * slope, evaluations), None

    # With a loop over the stages, the program contains the network once, and the memory of one evaluation.
    nothing, runs = jnp.zeros_like(x), jnp.stack([jnp.ones((), bool), possible])
    start = nothing, nothing, jnp.zeros((), jnp.int32)
    (_, total, evaluations), _ = jax.lax.scan(stage, start, (offsets, weights, runs))
    return x + step * total, evaluations


@pytree
class ProbabilityFlow(Solver):
    """x_s by an adaptive Runge–Kutta method, with its own steps and error control for each image.

    On a grid of one step, Uniform(1), this solver makes the whole solve. On a longer grid it also
    stops at each time. The grid must end where σ > 0. The evaluations of an image are counted as if
    the image were alone. A batch runs as long as its slowest image.

    Args:
      rtol: the relative tolerance.
      atol: the absolute tolerance.
      method: the embedded Runge–Kutta pair: "bosh3", "dopri5", "dopri8", "heun" or "tsit5".
      max_steps: the largest number of steps of an image.
    Error: within rtol |x| + atol in each step, by the root mean square over an image.
    Raises: ValueError for tolerances that are not positive, an unknown method, or a grid that ends
      at σ = 0. RuntimeError after `max_steps` steps.
    Source: arXiv 2011.13456, App. D.4, with RK45 at 1e-5; `score_sde.solvers.adaptive_ode`.
    """

    rtol: float = 1e-5
    atol: float = 1e-5
    method: str = static(default="dopri5")
    max_steps: int = static(default=4096)

    def __post_init__(self):
        self._adaptive()  # checks the fields

    def check(self, sde: SDE, times: Times) -> None:
        super().check(sde, times)
        if not sde.sigma(jnp.asarray(times[-1])) > 0:
            raise ValueError(
                f"ProbabilityFlow needs a grid that ends where σ > 0, got σ=0 at t={times[-1]}; end above 0, as in "
                "Uniform(1, end=1e-5)."
            )

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        sde = denoise.sde

        def field(t, x):
            return velocity(sde, denoise(x, t), t)

        solution = self._adaptive().solve(field, x, t, s, denoise.evaluations, (denoise.weight,))
        return solution.y, carry, solution.nfe

    def chooses_steps(self) -> bool:
        return True

    def raise_failures(self, failed: Bool[Array, " b"]) -> None:
        self._adaptive().raise_if(failed)

    def _adaptive(self) -> Adaptive:
        return Adaptive(self.rtol, self.atol, self.method, self.max_steps)
