"""Any explicit Runge–Kutta method for the probability flow, in u = x/α over τ = σ/α, where du/dτ = ε̂."""

from typing import Any

import jax
import jax.numpy as jnp

from score_sde.denoising.dynamics import Denoise
from score_sde.internal.pytree import pytree, static
from score_sde.solvers.base import Batch, Keys, Scalar, Solver, Step
from score_sde.solvers.embedded_pairs import PAIRS
from score_sde.solvers.integrators import ddim, require_one_of, transfer

Tableau = tuple[tuple[tuple[float, ...], ...], tuple[float, ...]]

# The rows a_ij of the stages after the first, and the weights b_j. Hairer, Nørsett & Wanner, Solving ODEs I, Sec. II.1–5.
TABLEAUS: dict[str, Tableau] = {
    "midpoint": (((1 / 2,),), (0.0, 1.0)),
    "heun": (((1.0,),), (1 / 2, 1 / 2)),
    "ralston": (((2 / 3,),), (1 / 4, 3 / 4)),
    "kutta3": (((1 / 2,), (-1.0, 2.0)), (1 / 6, 2 / 3, 1 / 6)),
    "heun3": (((1 / 3,), (0.0, 2 / 3)), (1 / 4, 0.0, 3 / 4)),
    "ssp3": (((1.0,), (1 / 4, 1 / 4)), (1 / 6, 1 / 6, 2 / 3)),
    "rk4": (((1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
    "three_eighths": (((1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)), (1 / 8, 3 / 8, 3 / 8, 1 / 8)),
    "dopri5": (PAIRS["dopri5"].rows[:-1], PAIRS["dopri5"].rows[-1]),
}


@pytree
class RungeKutta(Solver):
    """x_s = α_s (u + Δτ Σ_j b_j ε̂_j), with ε̂_j at u_j = u + Δτ Σ_k a_jk ε̂_k and τ_j = τ_t + c_j Δτ.

    c_j is Σ_k a_jk. `method` is one of `TABLEAUS`. Alternatively, `tableau` is ((a_21,), (a_31,
    a_32), …), (b_1, b_2, …).

    Two kinds of step are DDIM steps, with one evaluation. The first is a step to σ(s) = 0, if the
    method would evaluate there (c_j = 1). The second is a step from α(t) = 0, where τ is infinite.

    Args:
      method: the name of a tableau in `TABLEAUS`.
      tableau: the rows a and the weights b of another tableau. None is the tableau of `method`.
    Error: the method's order, in steps of τ. The steps should be spaced as in EDM's grid. Near α =
      0 a step that is short in t may be long in τ. It is then unstable for c_j near 1, where ε̂
      changes by Δτ/τ_j. Example: iDDPM's table, 64 steps, "rk4", a Gaussian. Steps equal in t end
      0.16 standard deviations off, and `EDMRho` ends 0.0003 off.
    Raises: ValueError for an unknown method. ValueError for a tableau that is not explicit, whose
      weights do not sum to 1, or with times outside of the step.
    Source: Hairer, Nørsett & Wanner, Solving ODEs I, Sec. II.1; in u and τ as in arXiv 2206.00364,
      Sec. 4.
    """

    method: str = static(default="rk4")
    tableau: Tableau | None = static(default=None)

    def __post_init__(self):
        if self.tableau is None:
            require_one_of("method", self.method, tuple(TABLEAUS), self)
            return
        rows, b = self.tableau
        explicit = len(b) == len(rows) + 1 and all(len(row) == j for j, row in enumerate(rows, 1))
        if not (explicit and abs(sum(b) - 1) < 1e-6 and all(-1e-6 <= sum(row) <= 1 + 1e-6 for row in rows)):
            raise ValueError(
                "RungeKutta needs a tableau ((a21,), (a31, a32), …), (b1, b2, …) with one b more than rows, Σ b = 1 and "
                f"0 <= Σ a <= 1 in each row, got {self.tableau}."
            )

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        sde = denoise.sde
        rows, b = TABLEAUS[self.method] if self.tableau is None else self.tableau
        estimate, whole = denoise(x, t), transfer(sde, t, s)
        start, unit = sde.sigma(t) / sde.alpha(t), whole / sde.alpha(s)

        # α_time (u + Δτ Σ_k a_k ε̂_k) is the DDIM step, which is all a_k on the first ε̂, plus
        # differences from the first ε̂. The sum of differences does not cancel.
        def combined(time, length, row, found):
            moved = (length * a * (eps - found[0]) for a, eps in zip(row[1:], found[1:], strict=True))
            return sum(moved, ddim(sde, estimate, time))

        def time_of(row):
            c = sum(row)
            return s if abs(c - 1) < 1e-6 else sde.time_of_log_snr(-2 * jnp.log(start + c * unit))

        def stages():
            found, evaluations = [estimate.eps], jnp.zeros((), jnp.int32)
            for row in rows:
                time = time_of(row)
                evaluations = evaluations + denoise.evaluations(time)
                found.append(denoise(combined(time, sde.alpha(time) * unit, row, found), time).eps)
            return combined(s, whole, b, found), evaluations

        inside = all(abs(sum(row) - 1) >= 1e-6 for row in rows)
        possible = jnp.isfinite(whole) & (inside | (sde.sigma(s) > 0))
        x, more = jax.lax.cond(possible, stages, lambda: (ddim(sde, estimate, s), jnp.zeros((), jnp.int32)))
        return x, carry, denoise.evaluations(t) + more
