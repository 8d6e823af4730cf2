"""UniPC: a multistep predictor, and a corrector that reuses the evaluation of the next step."""

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
    """x_s = α_s x̂0 + σ_s ε̂ + c B Σ_i ρ_i (D_i − D_0)/θ_i, with D_i the previous answers; then corrected at s.

    The predictor (UniP) takes as many answers as its order. The corrector (UniC) also takes the
    answer at s. It waits until the next step has evaluated that answer, so each step makes one
    evaluation. The weights ρ make the sum exact for polynomials in log(α/σ). With one difference
    only, ρ is 1/2 and B matters: B is φ_1 for `variant` "bh2", and 1 for "bh1".

    Args:
      variant: B: "bh2" for φ_1, "bh1" for 1.
      lower_order_below: solves of fewer steps have lower order at the end.
      order: 1, 2 or 3. The first steps have lower order. In a solve of fewer than
        `lower_order_below` steps, the last steps have lower order too.
      predicts: the answer D: x̂0 ("x0") or ε̂ ("eps").
      correct: whether the corrector runs. Without it the solver is UniP.
      correct_last: whether the last step is corrected too, which costs one evaluation more (not at
        σ(s) = 0).
    Error: `order`, or `order` + 1 with the corrector, in steps of log(α/σ), while no order is
      lowered.
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
        # The evaluation at the predicted x also serves the corrector of the previous step. The
        # correction changes x at t, but not the answer, which is not evaluated again. In this step
        # x is multiplied by `ratio`, and so is the correction.
        if self.correct:
            change = self._correction(sde, past, last_order, answer, t)
            # After a restart, x at t does not come from the predictor, and there is nothing to correct.
            base = base + jnp.where(t == predicted_for, ratio, 0.0) * change
        past = past.push(answer, t)
        x = base + self._integral(sde, past, now, s, answer[None][:0])
        evaluations = denoise.evaluations(t)
        if self.correct and self.correct_last:
            last = (past.left.number == 0) & (sde.sigma(s) > 0)
            x = jax.lax.cond(last, lambda: self._corrected(sde, denoise, past, now, x, s), lambda: x)
            evaluations = evaluations + jnp.where(last, denoise.evaluations(s), 0)
        return x, (past, now, s), evaluations

    def _corrected(self, sde, denoise, past, order, x, s):
        """x_s after the corrector, with a new evaluation at s."""
        answer = predicted(denoise(x, s), self.predicts)
        return x + self._correction(sde, past, order, answer, s)

    def _correction(self, sde: SDE, past: history.History, order: Int[Array, ""], answer: Batch, t: Scalar) -> Batch:
        """What the corrector adds to x at t, where the predictor arrived from the newest answer of `past`."""
        return self._integral(sde, past, order, t, answer[None]) - self._integral(sde, past, order, t, answer[None][:0])

    def _integral(
        self, sde: SDE, past: history.History, order: Int[Array, ""], s: Scalar, at_end: Float[Array, "m b *shape"]
    ) -> Batch:
        """∫ (P − D_0) from the time of the newest answer in `past` to s.

        P goes through the `order` newest answers of `past`, and through the answers in `at_end`,
        which is the answer at s or empty.
        """
        more, t = len(at_end), past.times[0]
        h = rise(sde, t, s)
        c, z = gain(sde, s, h, self.predicts)
        gains = c * moments(z, max(self.order + more, 2))
        # The answer at s has the node θ = 1. It stands first, so that every order uses it.
        earlier = -rise(sde, past.times[1:], t) / h
        nodes = jnp.concatenate([jnp.ones(more, h.dtype), earlier])
        answers = jnp.concatenate([at_end, past.answers[1:]])
        used = history.usable(order, earlier, gains) + more
        # Two answers leave one difference. The paper then sets ρ = 1/2, and the weight is c B/2, in
        # place of the exact integral of θ. c φ_1 is gains[0].
        single = 0.5 * (gains[0] if self.variant == "bh2" else c)
        gains = gains.at[1].set(jnp.where(used == 2, single, gains[1]))
        # With an infinite integral, at σ(s) = 0, the step has order 1.
        used = jnp.where(jnp.all(jnp.isfinite(gains)), used, 1)
        return history.correction(history.weights(nodes, used, gains), answers, past.answers[0])
