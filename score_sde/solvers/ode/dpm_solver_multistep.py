"""Multistep DPM-Solver and DPM-Solver++: one evaluation a step, and the answers of the steps before."""

from typing import Any

import jax.numpy as jnp

from score_sde.denoising.dynamics import Denoise
from score_sde.internal.pytree import pytree, static
from score_sde.solvers import history
from score_sde.solvers.base import Batch, Count, Keys, Scalar, Solver, Step
from score_sde.solvers.integrators import ddim, gain, moments, predicted, require_one_of, rise
from score_sde.solvers.ode.dpm_solver import TYPES


def multistep(
    past: history.History,
    denoise: Denoise,
    x: Batch,
    t: Scalar,
    s: Scalar,
    order: int,
    lower_order_below: Count,
    prediction: str,
    solver_type: str,
    curvature: Scalar | float = 1.0,
) -> Step:
    """x_s = α_s x̂0 + σ_s ε̂ + ∫ of the polynomial in l through the last `order` answers, less its value at t.

    In order 2 `solver_type` "dpmsolver" has c φ_1/2 for the integral c φ_2 of θ; in order 3 that of θ² has the weight
    `curvature`.
    """
    sde, estimate = denoise.sde, denoise(x, t)
    h = rise(sde, t, s)
    now = past.order(order, lower_order_below)
    c, z = gain(sde, s, h, prediction)
    gains = c * moments(z, order)
    if solver_type == "dpmsolver" and order > 1:
        gains = gains.at[1].set(jnp.where(now == 2, 0.5 * gains[0], gains[1]))
    gains = gains.at[2:].multiply(curvature)
    nodes = -rise(sde, past.times, t) / h
    answer, base = predicted(estimate, prediction), ddim(sde, estimate, s)
    x, past = history.extrapolate(past, now, answer, t, base, nodes, gains)
    return x, past, denoise.evaluations(t)


@pytree
class DPMSolverMultistep(Solver):
    """x_s = α_s x̂0 + σ_s ε̂ − σ_s ∫₀ʰ e^(h−r) (P(r) − ε̂) dr, P the polynomial in l through the last `order` ε̂.

    The first steps have lower order; so have the last ones of a solve of fewer than `lower_order_below` steps. A step to
    σ(s) = 0 has order 1.

    Args:
      solver_type: "taylor" is the integral above; "dpmsolver" has φ_1(h)/2 for φ_2(h) in the steps of order 2.
      curvature: the weight of the second difference in order 3. The authors' code has 1/2, and so the order 2.
    Error: `order`, in steps of l.
    Raises: ValueError unless order is 1, 2 or 3, or for an unknown type.
    Source: Lu et al., arXiv 2211.01095, Sec. 4 and App. B, with ε̂; the authors' code.
    """

    order: int = static(default=2)
    solver_type: str = static(default="dpmsolver")
    lower_order_below: Count = 10
    curvature: Scalar | float = 1.0

    def __post_init__(self):
        require_one_of("solver_type", self.solver_type, TYPES, self)
        if self.order not in (1, 2, 3):
            raise ValueError(f"DPMSolverMultistep needs order 1, 2 or 3, got order={self.order}.")

    def init(self, x: Batch, num_steps: Count) -> history.History:
        return history.start(x, max(1, self.order - 1), num_steps)

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        fields = self.order, self.lower_order_below, "eps", self.solver_type, self.curvature
        return multistep(carry, denoise, x, t, s, *fields)


@pytree
class DPMSolverPP2M(Solver):
    """x_s = α_s x̂0 + σ_s ε̂ + α_s h φ (x̂0 − x̂0_prev)/r, with r = (l(t) − l(t_prev))/h.

    φ = φ_1(−h)/2 for `solver_type` "dpmsolver", the paper's, or φ_2(−h) for "taylor". The first step has order 1, as has
    one to σ(s) = 0 (which is x̂0), and the last of a solve of fewer than `lower_order_below` steps.

    Error: order 2 in steps of l. Raises: ValueError for an unknown type.
    Source: Lu et al., arXiv 2211.01095, Algorithm 2 (DPM-Solver++(2M)).
    """

    solver_type: str = static(default="dpmsolver")
    lower_order_below: Count = 10

    def __post_init__(self):
        require_one_of("solver_type", self.solver_type, TYPES, self)

    def init(self, x: Batch, num_steps: Count) -> history.History:
        return history.start(x, 1, num_steps)

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        return multistep(carry, denoise, x, t, s, 2, self.lower_order_below, "x0", self.solver_type)


@pytree
class DPMSolverPP3M(Solver):
    """x_s = α_s x̂0 + σ_s ε̂ + α_s ∫₀ʰ e^(r−h) (P(r) − x̂0) dr, P the parabola in l through the last three x̂0.

    The first steps have orders 1 and 2; so have the last ones of a solve of fewer than `lower_order_below` steps. A step
    to σ(s) = 0 is x̂0.

    Args:
      solver_type: of the steps of order 2: "dpmsolver" or "taylor", as in `DPMSolverPP2M`.
      curvature: the weight of the second difference. The authors' code, k-diffusion's and diffusers' have 1/2, which is not
        the parabola's, and makes the order 2.
    Error: order 3 in steps of l. Raises: ValueError for an unknown type.
    Source: Lu et al., arXiv 2211.01095, as in the authors' code (the paper has 2S and 2M).
    """

    solver_type: str = static(default="dpmsolver")
    lower_order_below: Count = 10
    curvature: Scalar | float = 1.0

    def __post_init__(self):
        require_one_of("solver_type", self.solver_type, TYPES, self)

    def init(self, x: Batch, num_steps: Count) -> history.History:
        return history.start(x, 2, num_steps)

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        fields = 3, self.lower_order_below, "x0", self.solver_type, self.curvature
        return multistep(carry, denoise, x, t, s, *fields)
