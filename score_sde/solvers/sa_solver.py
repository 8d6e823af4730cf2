"""SA-Solver: stochastic Adams predictor and corrector in λ = log(α/σ)."""

from typing import Any

import jax.numpy as jnp

from score_sde.dynamics import Denoise
from score_sde.pytree import pytree, static
from score_sde.sdes.base import SDE
from score_sde.solvers import brownian, exponential
from score_sde.solvers.base import Batch, Count, Keys, Scalar, Solver, Step


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
        """(noise, past x̂0, their λ, what the predictor added for x̂0, its gap and η h, α_s)."""
        number = self.predictor_order
        past, levels = jnp.zeros((number, *x.shape), x.dtype), jnp.full(number, -jnp.inf, x.dtype)
        zero = jnp.zeros((), x.dtype)
        return brownian.init(x, self.consistent), past, levels, jnp.zeros_like(x), (zero, zero, zero)

    def step(self, key: Keys, sde: SDE, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        path, past, levels, predicted, last = carry
        x0, level = denoise(x, t).x0, exponential.half_log_snr(sde, t)
        x = self._correct(x, x0, level, past, levels, predicted, *last)
        past, levels = jnp.concatenate([x0[None], past[:-1]]), jnp.concatenate([level[None], levels[:-1]])
        ratio, h = jnp.exp(-level), exponential.gap(sde, t, s)
        eta = jnp.where((self.S_min <= ratio) & (ratio <= self.S_max), jnp.asarray(self.tau, h.dtype) ** 2, 0.0)
        noisy = exponential.times(eta, h)
        ends = tuple(exponential.times(eta, end) for end in (level, exponential.half_log_snr(sde, s)))
        (drawn,), path = brownian.increments(key, x, path, ends, (noisy,))
        nodes = [jnp.zeros_like(h), *(jnp.where(jnp.isfinite(h), (at - level) / h, -jnp.inf) for at in levels[1:])]
        predicted = sde.alpha(s) * _combine(nodes, h + noisy, past)
        x = sde.sigma(s) / sde.sigma(t) * jnp.exp(-noisy) * x + predicted + sde.sigma(s) * drawn
        return x, (path, past, levels, predicted, (h, noisy, sde.alpha(s)))

    def _correct(self, x, x0, level, past, levels, predicted, h, noisy, alpha):
        """x with the polynomial through x̂0 here and at past steps in place of the predictor's."""
        order = self.corrector_order
        possible = jnp.isfinite(h) & jnp.isfinite(levels[0]) & (h > 0)
        if order == 0:
            return x
        h = jnp.where(possible, h, 1.0)
        # The first node must be there: u = 0 is the step before, 1 is here.
        nodes = [jnp.zeros_like(h), jnp.ones_like(h)]
        nodes += [jnp.where(possible, (at - levels[0]) / h, -jnp.inf) for at in levels[1:order]]
        values = jnp.concatenate([past[:1], x0[None], past[1:order]])
        corrected = alpha * _combine(nodes, h + noisy, values)
        return jnp.where(possible, x + corrected - predicted, x)


def _combine(nodes, k, values):
    """Σ_j w_j values[j], [b, *shape], with the weights of the polynomial through the nodes."""
    each = exponential.weights(nodes, exponential.moments(k, len(nodes)))
    return jnp.tensordot(each, values, axes=1)
