"""SA-Solver: stochastic Adams predictor and corrector in λ = log(α/σ)."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.denoising.dynamics import Denoise
from score_sde.internal.pytree import pytree, static
from score_sde.sdes.base import SDE
from score_sde.solvers import brownian, exponential, history
from score_sde.solvers.base import Batch, Count, Keys, Scalar, Solver, Step
from score_sde.solvers.integrators import rise


@pytree
class SASolver(Solver):
    """x_s by the exponential Adams method of `predictor_order`; at s, x̂0 there corrects x_s before it goes on.

    The integral over x̂0 is that of `score_sde.solvers.exponential` with η = τ²: the predictor takes the polynomial through
    this and past steps, the corrector also through the next, with the same noise. The evaluation at the predicted x_s
    serves the correction and the next step, so there is one a step; the last state is only predicted. corrector_order 0
    has no corrector; predictor_order 2 is then `DPMSolverPP2MSDE` with solver_type="heun", 3 is `DPMSolverPP3MSDE`.

    Args:
      tau: the knob of the noise, τ: 0 is the probability flow, 1 the reverse SDE, more is more.
      S_min, S_max: τ is 0 where σ/α is not between (the paper: 0.05 to 1 on CIFAR-10, with τ up to 1.4).
      corrector_order: past points of the corrector, 0 … predictor_order; with the next one its order is one higher.
    Error: order predictor_order (one more with a corrector as long) for τ = 0, else strong order 1 with a constant τ²; on
    Gaussian data weak order 2. Raises: ValueError for fields out of range.
    Source: Xue et al., arXiv 2309.05019, Algorithm 1, Eqs. 14–18, in the data prediction.
    """

    tau: float = 1.0
    S_min: float = 0.0
    S_max: float = float("inf")
    predictor_order: int = static(default=3)
    corrector_order: int = static(default=3)
    consistent: bool = static(default=False)

    def __post_init__(self):
        orders = 1 <= self.predictor_order <= 4 and 0 <= self.corrector_order <= self.predictor_order
        if not (orders and self.tau >= 0 and 0 <= self.S_min <= self.S_max):
            raise ValueError(
                "SASolver needs tau >= 0, 0 <= S_min <= S_max, predictor_order from 1 to 4 and corrector_order from 0 "
                f"to that, got {self}."
            )

    def init(self, x: Batch, num_steps: Count) -> Any:
        """(noise, past x̂0)."""
        return brownian.init(x, self.consistent), history.start(x, self.predictor_order, num_steps)

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        sde = denoise.sde
        path, past = carry
        x0 = denoise(x, t).x0
        if self.corrector_order:
            x = x + self._correction(sde, past, x0, t)
        past = past.push(x0, t)
        x, path = exponential.without_data(key, sde, x, t, s, self._eta(sde, t), 1.0, path)
        x = x + self._integral(sde, past, s, self.predictor_order, past.answers[:0])
        return x, (path, past), denoise.evaluations(t)

    def _eta(self, sde: SDE, t: Scalar) -> Scalar:
        """τ², and 0 outside of S_min to S_max."""
        ratio = jnp.exp(-exponential.half_log_snr(sde, t))
        within = (self.S_min <= ratio) & (ratio <= self.S_max)
        return jnp.where(within, jnp.asarray(self.tau, ratio.dtype) ** 2, 0.0)

    def _correction(self, sde: SDE, past: history.History, x0: Batch, t: Scalar) -> Batch:
        """By how much x at t changes with the polynomial through x̂0 here and before in place of the predictor's."""

        def change():
            corrected = self._integral(sde, past, t, self.corrector_order, x0[None])
            return corrected - self._integral(sde, past, t, self.predictor_order, past.answers[:0])

        # On the way to noise, h < 0, the corrector does not run. A branch and no `where`: NaN left out by a `where` is NaN
        # again in a derivative.
        h = rise(sde, past.times[0], t)
        possible = (past.made > 0) & jnp.isfinite(h) & (h > 0)
        return jax.lax.cond(possible, change, lambda: jnp.zeros_like(x0))

    def _integral(
        self, sde: SDE, past: history.History, s: Scalar, order: int, at_end: Float[Array, "m b *shape"]
    ) -> Batch:
        """The part of x̂0 in the step from the newest of `past` to s: through `order` of them, and those at s, none or one."""
        t = past.times[0]
        h = rise(sde, t, s)
        there = jnp.isfinite(h) & (jnp.arange(1, order, dtype=jnp.int32) < past.made)
        earlier = jnp.where(there, -rise(sde, past.times[1:order], t) / h, -jnp.inf)
        nodes = jnp.concatenate([jnp.zeros(1, h.dtype), jnp.ones(len(at_end), h.dtype), earlier])
        values = jnp.concatenate([past.answers[:1], at_end, past.answers[1:order]])
        integrals = exponential.moments(h + exponential.times(self._eta(sde, t), h), len(nodes))
        return sde.alpha(s) * jnp.tensordot(exponential.weights(nodes, integrals), values, axes=1)
