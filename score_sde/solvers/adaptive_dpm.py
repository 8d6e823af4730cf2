"""DPM-Solver-12 and -23: pairs of DPM-Solvers of neighbouring orders, with a step size of its own for each image."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from score_sde import adaptive
from score_sde.broadcast import expand_like
from score_sde.dynamics import Denoise
from score_sde.pytree import pytree, static
from score_sde.sdes.base import SDE
from score_sde.solvers.base import Batch, Count, Keys, Scalar, Solver, Step, Times
from score_sde.solvers.dpm_solver import TYPES, inner_state, inner_time, second_update, third_update
from score_sde.solvers.integrators import PREDICTIONS, ddim, predicted, require_one_of, rise


class Pair(NamedTuple):
    """The fields of a pair of orders `order` − 1 and `order`."""

    order: int
    rtol: Scalar | float
    atol: Scalar | float
    h_init: Scalar | float
    safety: Scalar | float
    solver_type: str
    predicts: str
    max_steps: int


class Progress(NamedTuple):
    """Where each image is."""

    x: Batch
    lower: Batch  # x of the lower order at the last time reached
    t: Float[Array, " b"]
    h: Float[Array, " b"]
    done: Bool[Array, " b"]
    nfe: Int[Array, " b"]
    tries: Int[Array, ""]


def image_errors(higher: Batch, lower: Batch, last: Batch, rtol: Scalar | float, atol: Scalar | float) -> Any:
    """√mean ((higher − lower)/max(atol, rtol max(|lower|, |last|)))², of each image."""
    scale = jnp.maximum(atol, rtol * jnp.maximum(jnp.abs(lower), jnp.abs(last)))
    squares = ((higher - lower) / scale).reshape(len(higher), -1) ** 2
    return jnp.sqrt(jnp.mean(squares, axis=1))


def attempt(pair: Pair, sde: SDE, denoise: Denoise, x: Batch, t: Array, s: Array, h: Array) -> tuple[Batch, Batch]:
    """(x_s of the lower order, of the higher), which share their evaluations."""
    estimate, which = denoise(x, t), (pair.predicts, pair.solver_type)
    present = predicted(estimate, pair.predicts)
    r1, r2 = (0.5, 1.0) if pair.order == 2 else (1 / 3, 2 / 3)
    time1 = inner_time(sde, t, h, r1)
    d1 = predicted(denoise(ddim(sde, estimate, time1), time1), pair.predicts) - present
    second = second_update(sde, estimate, s, h, d1 / r1, *which)
    if pair.order == 2:
        return ddim(sde, estimate, s), second
    time2 = inner_time(sde, t, h, r2)
    x2 = inner_state(sde, estimate, time2, h, r2, d1 / r1, pair.predicts)
    d2 = predicted(denoise(x2, time2), pair.predicts) - present
    return second, third_update(sde, estimate, s, h, r1, r2, (d1, d2), *which)


def solve(pair: Pair, sde: SDE, denoise: Denoise, x: Batch, t: Scalar, end: Scalar) -> tuple[Batch, Int[Array, " b"]]:
    """(x at `end`, evaluations of each image)."""
    per_image = jax.vmap(jnp.where)

    def active(now):
        return ~now.done & ~jnp.isnan(now.h)

    def advance(now):
        left = rise(sde, now.t, end)
        arrives = now.h >= left
        h = jnp.minimum(now.h, left)
        s = jnp.where(arrives, end, inner_time(sde, now.t, h, 1.0))
        lower, higher = attempt(pair, sde, denoise, now.x, now.t, s, h)
        error = image_errors(higher, lower, now.lower, pair.rtol, pair.atol)
        running = active(now)
        accepted, done = running & (error <= 1), now.done | (running & (error <= 1) & arrives)
        moves = accepted & ~done  # who has arrived repeats the last step, which is finite, in vain
        return Progress(
            per_image(accepted, higher, now.x),
            per_image(accepted, lower, now.lower),
            jnp.where(moves, s, now.t),
            jnp.where(running, pair.safety * h * error ** (-1 / pair.order), now.h),
            done,
            now.nfe + pair.order * running.astype(jnp.int32),
            now.tries + 1,
        )

    each = jnp.zeros(x.shape[:1], x.dtype)
    start = Progress(
        x, x, each + t, each + pair.h_init, each > 0, jnp.zeros_like(each, jnp.int32), jnp.zeros((), jnp.int32)
    )
    found = jax.lax.while_loop(lambda now: jnp.any(active(now)) & (now.tries < pair.max_steps), advance, start)
    name = f"DPM-Solver-{pair.order - 1}{pair.order}"
    broken = adaptive.raise_if(~found.done, pair.rtol, pair.atol, name, pair.max_steps)
    return found.x + expand_like(broken, x).astype(x.dtype), found.nfe


@pytree
class DPMSolver12(Solver):
    """x_s by steps of DPM-Solver-2 whose length in log(α/σ) is controlled by the difference from DPM-Solver-1.

    A step of an image counts where √mean ((x_2 − x_1)/max(atol, rtol max(|x_1|, |x_1 of the step before|)))² = E <= 1; the
    next has the length `safety` h E^(−1/2). Each image has its own; the authors' code lets the worst image of a batch rule
    all of them, so the two agree on one image at a time.

    On a grid of one step, Uniform(1), it is the whole solve; on a longer one it also stops at each time, and starts again
    with `h_init`. The grid must lie where log(α/σ) is finite.

    Args:
      predicts: "eps" for DPM-Solver, "x0" for DPM-Solver++.
    Error: within the tolerance in each step. Raises: ValueError for tolerances, h_init or safety that are not positive, an
    unknown type or answer, or a grid with α = 0 or σ = 0; a runtime error after `max_steps` attempts.
    Source: Lu et al., arXiv 2206.00927, App. C, with the tolerances of the authors' code.
    """

    rtol: Scalar | float = 0.05
    atol: Scalar | float = 0.0078
    h_init: Scalar | float = 0.05
    safety: Scalar | float = 0.9
    solver_type: str = static(default="dpmsolver")
    predicts: str = static(default="eps")
    max_steps: int = static(default=4096)

    def __post_init__(self):
        _check(self)

    def check(self, sde: SDE, times: Times) -> None:
        _check_times(self, sde, times)

    def init(self, x: Batch, num_steps: Count) -> Int[Array, " b"]:
        return jnp.zeros(x.shape[:1], jnp.int32)

    def step(self, key: Keys, sde: SDE, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        return solve(_pair(self, 2), sde, denoise, x, t, s)

    def evaluations(self, calls: int, carry: Any) -> Int[Array, " b"]:
        return carry


@pytree
class DPMSolver23(Solver):
    """x_s by steps of DPM-Solver-3 whose length in log(α/σ) is controlled by the difference from DPM-Solver-2.

    As `DPMSolver12`, with E^(−1/3), r1 = 1/3 in both orders and three evaluations an attempt.

    Error, Raises and Source: those of `DPMSolver12`.
    """

    rtol: Scalar | float = 0.05
    atol: Scalar | float = 0.0078
    h_init: Scalar | float = 0.05
    safety: Scalar | float = 0.9
    solver_type: str = static(default="dpmsolver")
    predicts: str = static(default="eps")
    max_steps: int = static(default=4096)

    def __post_init__(self):
        _check(self)

    def check(self, sde: SDE, times: Times) -> None:
        _check_times(self, sde, times)

    def init(self, x: Batch, num_steps: Count) -> Int[Array, " b"]:
        return jnp.zeros(x.shape[:1], jnp.int32)

    def step(self, key: Keys, sde: SDE, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        return solve(_pair(self, 3), sde, denoise, x, t, s)

    def evaluations(self, calls: int, carry: Any) -> Int[Array, " b"]:
        return carry


def _pair(solver, order):
    return Pair(order, **vars(solver))


def _check(solver):
    require_one_of("solver_type", solver.solver_type, TYPES, solver)
    require_one_of("predicts", solver.predicts, PREDICTIONS, solver)
    if not (solver.rtol >= 0 and solver.atol > 0 and solver.h_init > 0 and 0 < solver.safety < 1 <= solver.max_steps):
        raise ValueError(
            f"{type(solver).__name__} needs rtol >= 0, atol > 0, h_init > 0, 0 < safety < 1 and max_steps >= 1, got {solver}."
        )


def _check_times(solver, sde, times):
    for t in (times[0], times[-1]):
        if not jnp.isfinite(sde.log_snr(jnp.asarray(t))):
            raise ValueError(
                f"{type(solver).__name__} needs a grid where log(α/σ) is finite, which it is not at t={t}; start below "
                "t_max, or end above 0, as in Uniform(1, start=0.999, end=1e-3)."
            )
