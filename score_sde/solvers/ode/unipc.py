"""UniPC: a multistep predictor, and a corrector from the evaluation that the next step makes anyway."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from score_sde.denoising.dynamics import Denoise
from score_sde.internal.pytree import pytree, static
from score_sde.sdes.base import SDE
from score_sde.solvers import history
from score_sde.solvers.base import Batch, Count, Keys, Scalar, Solver, Step
from score_sde.solvers.integrators import PREDICTIONS, ddim, gain, moments, predicted, require_one_of, rise


@pytree
class UniPC(Solver):
    """x_s = α_s x̂0 + σ_s ε̂ + c B Σ_i ρ_i (D_i − D_0)/θ_i, D the answers before t; then corrected with D at s itself.

    The predictor (UniP) takes as many answers as its order; the corrector (UniC) adds the one at s, when the next step has
    evaluated it, so that there is one evaluation a step. The weights ρ make the sum exact for polynomials in log(α/σ);
    where only one difference is taken, ρ = 1/2, and B matters: φ_1 for `variant` "bh2", 1 for "bh1".

    Args:
      order: 1, 2 or 3; in the first steps, and in the last of a solve of fewer than `lower_order_below` steps, lower.
      predicts: D is x̂0 ("x0") or ε̂ ("eps").
      correct: whether the corrector runs at all. Without it the predictor is UniP.
      correct_last: whether the last step too is corrected, by one evaluation more (not at σ(s) = 0).
    Error: `order`, with the corrector `order` + 1, in steps of log(α/σ), while no order is lowered.
    Raises: ValueError unless order is 1, 2 or 3, or for an unknown variant or answer.
    Source: Zhao et al., arXiv 2302.04867, Sec. 3, and the authors' code.
    """

    order: int = static(default=3)
    variant: str = static(default="bh2")
    predicts: str = static(default="x0")
    correct: bool = static(default=True)
    correct_last: bool = static(default=False)
    lower_order_below: Count = history.ALWAYS

    def __post_init__(self):
        require_one_of("variant", self.variant, ("bh1", "bh2"), self)
        require_one_of("predicts", self.predicts, PREDICTIONS, self)
        if self.order not in (1, 2, 3):
            raise ValueError(f"UniPC needs order 1, 2 or 3, got order={self.order}.")

    def init(self, x: Batch, num_steps: Count) -> Any:
        return history.start(x, self.order, num_steps), jnp.zeros((), jnp.int32), -jnp.ones((), x.dtype)

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        sde = denoise.sde
        past, last_order, predicted_for = carry
        estimate = denoise(x, t)
        answer = predicted(estimate, self.predicts)
        now = past.order(self.order, self.lower_order_below)
        ratio = sde.sigma(s) / sde.sigma(t) if self.predicts == "x0" else sde.alpha(s) / sde.alpha(t)
        base = ddim(sde, estimate, s)
        if self.correct:
            change = self._correction(sde, past, last_order, answer, t)
            base = base + jnp.where(t == predicted_for, ratio, 0.0) * change  # not after a restart
        past = past.push(answer, t)
        x = base + self._integral(sde, past, now, s, answer[None][:0])
        evaluations = denoise.evaluations(t)
        if self.correct and self.correct_last:
            last = (past.made == past.num_steps) & (sde.sigma(s) > 0)
            x = jax.lax.cond(last, lambda: self._corrected(sde, denoise, past, now, x, s), lambda: x)
            evaluations = evaluations + jnp.where(last, denoise.evaluations(s), 0)
        return x, (past, now, s), evaluations

    def _corrected(self, sde, denoise, past, order, x, s):
        answer = predicted(denoise(x, s), self.predicts)
        return x + self._correction(sde, past, order, answer, s)

    def _correction(self, sde: SDE, past: history.History, order: Int[Array, ""], answer: Batch, t: Scalar) -> Batch:
        """What the corrector adds to the x at t that the predictor came to from the newest of `past`."""
        return self._integral(sde, past, order, t, answer[None]) - self._integral(sde, past, order, t, answer[None][:0])

    def _integral(
        self, sde: SDE, past: history.History, order: Int[Array, ""], s: Scalar, at_end: Float[Array, "m b *shape"]
    ) -> Batch:
        """∫ (P − D_0) from the newest of `past` to s; P goes through `order` of its answers, and those at s, none or one."""
        more, t = len(at_end), past.times[0]
        h = rise(sde, t, s)
        c, z = gain(sde, s, h, self.predicts)
        gains = c * moments(z, max(self.order + more, 2))
        # An answer at s is the first node, so that it is used in every order.
        earlier = -rise(sde, past.times[1:], t) / h
        nodes = jnp.concatenate([jnp.ones(more, h.dtype), earlier])
        answers = jnp.concatenate([at_end, past.answers[1:]])
        used = history.usable(order, earlier, gains) + more
        single = 0.5 * (gains[0] if self.variant == "bh2" else c)
        gains = gains.at[1].set(jnp.where(used == 2, single, gains[1]))
        used = jnp.where(jnp.all(jnp.isfinite(gains)), used, 1)
        return history.correction(history.weights(nodes, used, gains), answers, past.answers[0])
