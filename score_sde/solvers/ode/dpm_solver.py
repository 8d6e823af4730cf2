"""DPM-Solver and DPM-Solver++ in one step: exponential integrators in l = log(α/σ).

The answer D is ε̂ for DPM-Solver and x̂0 for DPM-Solver++. The symbols h, c, z and φ are defined in
`score_sde.solvers.integrators`. The multistep forms are in `dpm_solver_multistep`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.denoising.dynamics import Denoise, Evaluations
from score_sde.denoising.estimate import Estimate
from score_sde.internal.broadcast import expand_like
from score_sde.internal.pytree import pytree, static
from score_sde.sdes.base import SDE, Time
from score_sde.solvers.base import Batch, Keys, Scalar, Solver, Step
from score_sde.solvers.integrators import ddim, gain, phi, predicted, require_one_of, rise

Coefficient = Float[Array, "*b"] | float
TYPES = ("dpmsolver", "taylor")


def inner_time(sde: SDE, t: Time, h: Coefficient, r: Coefficient) -> Float[Array, "*b"]:
    """The time at which l = l(t) + r h."""
    return sde.time_of_log_snr(sde.log_snr(t) + 2 * r * h)


def inner_state(
    sde: SDE, estimate: Estimate, time: Time, h: Coefficient, r: Coefficient, slope: Batch, prediction: str
) -> Batch:
    """x at `time`, where l = l(t) + r h, for the answer D = D_t + slope (l − l(t))/h."""
    c, z = gain(sde, time, r * h, prediction)
    return ddim(sde, estimate, time) + expand_like(c * phi(z, 2)[1] * r, slope) * slope


def second_update(
    sde: SDE, estimate: Estimate, s: Time, h: Coefficient, slope: Batch, prediction: str, solver_type: str
) -> Batch:
    """α_s x̂0 + σ_s ε̂ + c φ slope, with φ = φ_1(z)/2 ("dpmsolver") or φ_2(z) ("taylor")."""
    c, z = gain(sde, s, h, prediction)
    first, second = phi(z, 2)
    return (
        ddim(sde, estimate, s) + expand_like(c * (0.5 * first if solver_type == "dpmsolver" else second), slope) * slope
    )


def third_update(
    sde: SDE,
    estimate: Estimate,
    s: Time,
    h: Coefficient,
    r1: Coefficient,
    r2: Coefficient,
    differences: tuple[Batch, Batch],
    prediction: str,
    solver_type: str,
) -> Batch:
    """x_s of order 3 from the differences D_1 − D_t and D_2 − D_t.

    "dpmsolver" is α_s x̂0 + σ_s ε̂ + c φ_2 (D_2 − D_t)/r2. "taylor" integrates the parabola through
    the three answers: α_s x̂0 + σ_s ε̂ + c (φ_2 D' + φ_3 D'').
    """
    c, z = gain(sde, s, h, prediction)
    _, second, third = phi(z, 3)
    # Divided differences of D: over r1 h, and over r2 h.
    slope1, slope2 = (expand_like(1 / r, d) * d for r, d in zip((r1, r2), differences, strict=True))
    base = ddim(sde, estimate, s)
    if solver_type == "dpmsolver":
        return base + expand_like(c * second, slope2) * slope2
    r1, r2 = expand_like(r1, slope1), expand_like(r2, slope1)
    # D' and D'' at t of the parabola through D_t, D_1 and D_2, in units of h.
    first, curvature = (r2 * slope1 - r1 * slope2) / (r2 - r1), 2 * (slope2 - slope1) / (r2 - r1)
    return base + expand_like(c * second, base) * first + expand_like(c * third, base) * curvature


def usual_fractions(order: int) -> tuple[float, float]:
    """(r1, r2) of the papers."""
    return 0.5 if order == 2 else 1 / 3, 2 / 3


def neighbouring_orders(
    denoise: Denoise,
    estimate: Estimate,
    t: Time,
    s: Time,
    h: Coefficient,
    order: int,
    r1: Coefficient,
    r2: Coefficient,
    prediction: str,
    solver_type: str,
) -> tuple[Batch, Batch, Evaluations]:
    """(x_s of order `order` − 1, x_s of order `order`, evaluations between t and s), with `order` 2 or 3.

    Both orders share the evaluations. `estimate` is the denoiser's at t.
    """
    sde, present = denoise.sde, predicted(estimate, prediction)
    time1 = inner_time(sde, t, h, r1)
    d1 = predicted(denoise(ddim(sde, estimate, time1), time1), prediction) - present
    second = second_update(sde, estimate, s, h, d1 / r1, prediction, solver_type)
    if order == 2:
        return ddim(sde, estimate, s), second, denoise.evaluations(time1)
    time2 = inner_time(sde, t, h, r2)
    x2 = inner_state(sde, estimate, time2, h, r2, d1 / r1, prediction)
    d2 = predicted(denoise(x2, time2), prediction) - present
    third = third_update(sde, estimate, s, h, r1, r2, (d1, d2), prediction, solver_type)
    return second, third, denoise.evaluations(time1) + denoise.evaluations(time2)


def singlestep(
    denoise: Denoise,
    x: Batch,
    t: Scalar,
    s: Scalar,
    order: int,
    r1: Coefficient,
    r2: Coefficient,
    prediction: str,
    solver_type: str,
) -> tuple[Batch, Evaluations]:
    """(x_s, evaluations) by one step of order 1, 2 or 3.

    Where σ(s) = 0 or α(t) = 0, h is infinite. No time lies between then, and the step has order 1.
    """
    sde, estimate, evaluations = denoise.sde, denoise(x, t), denoise.evaluations(t)
    h = rise(sde, t, s)
    if order == 1:
        return ddim(sde, estimate, s), evaluations

    def higher():
        _, x, between = neighbouring_orders(denoise, estimate, t, s, h, order, r1, r2, prediction, solver_type)
        return x, jnp.asarray(between, jnp.int32)

    def first():
        return ddim(sde, estimate, s), jnp.zeros((), jnp.int32)

    x, between = jax.lax.cond(jnp.isfinite(h), higher, first)
    return x, evaluations + between


@pytree
class DPMSolver(Solver):
    """x_s = α_s x̂0 + σ_s ε̂ − σ_s h (φ_2(h) D' + φ_3(h) D''), with D' and D'' from ε̂ between t and s.

    Orders 1, 2 and 3 make 1, 2 and 3 evaluations; order 1 is DDIM. `solver_type` "dpmsolver" is the
    form of the paper's algorithms: it has no D'', and in order 2 the weight of D' is h φ_1(h)/2.
    "taylor" has all terms. A step to σ(s) = 0, or from α(t) = 0, has order 1 and one evaluation.

    Args:
      order: 1, 2 or 3.
      solver_type: "dpmsolver", the paper's form, or "taylor", which has all terms.
      r1: the first evaluation between is at l(t) + r1 h. None is 1/2 in order 2, and 1/3 in order
        3.
      r2: the second evaluation between, in order 3, is at l(t) + r2 h. None is 2/3.
    Error: `order`, in steps of l.
    Raises: ValueError unless order is 1, 2 or 3, 0 < r1 <= 1 and r1 < r2 <= 1.
    Source: Lu et al., arXiv 2206.00927, Algorithms 1 and 2; the authors' code, also for r1, r2 and
      "taylor".
    """

    order: int = static(default=3)
    r1: Scalar | float | None = None
    r2: Scalar | float | None = None
    solver_type: str = static(default="dpmsolver")

    def __post_init__(self):
        _check(self, self.order, *_fractions(self.order, self.r1, self.r2))

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        r1, r2 = _fractions(self.order, self.r1, self.r2)
        x, evaluations = singlestep(denoise, x, t, s, self.order, r1, r2, "eps", self.solver_type)
        return x, carry, evaluations


@pytree
class DPMSolverPP2S(Solver):
    """x_s = α_s x̂0 + σ_s ε̂ + α_s h φ D', with D' = (x̂0(x_1, t_1) − x̂0)/r1 and l(t_1) = l(t) + r1 h.

    φ is φ_1(−h)/2 for `solver_type` "dpmsolver", as in the paper, and φ_2(−h) for "taylor". A step
    to σ(s) = 0 is x̂0.

    Args:
      r1: where the second evaluation is, as a fraction of the step in l.
      solver_type: "dpmsolver", the paper's form, or "taylor".
    Error: order 2 in steps of l.
    Raises: ValueError unless 0 < r1 <= 1, or for an unknown type.
    Source: Lu et al., arXiv 2211.01095, Algorithm 1 (DPM-Solver++(2S)).
    """

    r1: Scalar | float = 0.5
    solver_type: str = static(default="dpmsolver")

    def __post_init__(self):
        _check(self, 2, self.r1, 1.0)

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        x, evaluations = singlestep(denoise, x, t, s, 2, self.r1, 1.0, "x0", self.solver_type)
        return x, carry, evaluations


@pytree
class DPMSolverPP3S(Solver):
    """x_s = α_s x̂0 + σ_s ε̂ + α_s h (φ_2(−h) D' + φ_3(−h) D''), with D' and D'' from x̂0 between t and s.

    The two evaluations between are at l(t) + r1 h and l(t) + r2 h. `solver_type` "dpmsolver" leaves
    D'' out, and "taylor" has it. A step to σ(s) = 0 is x̂0.

    Args:
      r1: where the second evaluation is, as a fraction of the step in l.
      r2: where the third evaluation is, as a fraction of the step in l.
      solver_type: "dpmsolver", which leaves D'' out, or "taylor".
    Error: order 3 in steps of l.
    Raises: ValueError unless 0 < r1 < r2 <= 1, or for an unknown type.
    Source: Lu et al., arXiv 2211.01095, as in the authors' code (the paper has 2S and 2M).
    """

    r1: Scalar | float = 1 / 3
    r2: Scalar | float = 2 / 3
    solver_type: str = static(default="dpmsolver")

    def __post_init__(self):
        _check(self, 3, self.r1, self.r2)

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        x, evaluations = singlestep(denoise, x, t, s, 3, self.r1, self.r2, "x0", self.solver_type)
        return x, carry, evaluations


def _fractions(order, r1, r2):
    """(r1, r2), with the paper's values in place of None."""
    usual = usual_fractions(order)
    return usual[0] if r1 is None else r1, usual[1] if r2 is None else r2


def _check(solver, order, r1, r2):
    require_one_of("solver_type", solver.solver_type, TYPES, solver)
    if order not in (1, 2, 3) or not 0 < r1 <= 1 or (order == 3 and not r1 < r2 <= 1):
        raise ValueError(
            f"{type(solver).__name__} needs order 1, 2 or 3 and 0 < r1 <= 1, and r1 < r2 <= 1 in order 3; got {order=}, "
            f"{r1=}, {r2=}."
        )
