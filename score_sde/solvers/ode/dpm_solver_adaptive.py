"""DPM-Solver-12 and -23: pairs of DPM-Solvers of neighbouring orders, with a step size for each image."""

import abc
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from score_sde.denoising.dynamics import Denoise
from score_sde.internal.per_example import Weight, root_mean_square
from score_sde.internal.pytree import pytree, static
from score_sde.sdes.base import SDE
from score_sde.solvers import adaptive_ode, noise
from score_sde.solvers.around.added_noise import earlier
from score_sde.solvers.base import Batch, Keys, Scalar, Solver, Step, Times
from score_sde.solvers.integrators import PREDICTIONS, require_one_of, rise
from score_sde.solvers.ode.dpm_solver import TYPES, inner_time, neighbouring_orders, usual_fractions

LEAST_ERROR = 1e-8  # k-diffusion's controller divides by E, and adds this to E first


class Progress(NamedTuple):
    """The progress of each image."""

    x: Batch
    lower: Batch  # x of the lower order, at the end of the last accepted step
    t: Float[Array, " b"]
    h: Float[Array, " b"]
    errors: Float[Array, "2 b"]  # E of the last two accepted steps, the newest first
    done: Bool[Array, " b"]
    nfe: Int[Array, " b"]
    tries: Int[Array, ""]


def image_errors(
    higher: Batch, lower: Batch, last: Batch, rtol: Scalar | float, atol: Scalar | float, weight: Weight = None
) -> Any:
    """√mean ((higher − lower)/max(atol, rtol max(|lower|, |last|)))², for each image without its padding."""
    scale = jnp.maximum(atol, rtol * jnp.maximum(jnp.abs(lower), jnp.abs(last)))
    return root_mean_square((higher - lower) / scale, weight)


@pytree
class AdaptivePair(Solver):
    """x_s by steps of order q = `order`, whose length h in log(α/σ) is controlled by the difference from order q − 1.

    The difference is measured by

        E = √mean ((x_q − x_{q−1})/max(atol, rtol max(|x_{q−1}|, |previous x_{q−1}|)))².

    **The authors' rule.** A step of an image is accepted where E <= 1. The next step has the length
    safety · h · E^{−1/q}.

    **k-diffusion's rule** (a limited PID controller) applies with `accept_safety`. A step is
    accepted where f >= accept_safety, and the next step has the length f h, with

        f = 1 + arctan(Eₙ^{−(p+i+d)/q} Eₙ₋₁^{(p+2d)/q} Eₙ₋₂^{−d/q} − 1).

    Eₙ₋₁ and Eₙ₋₂ belong to the accepted steps before. At first they are the E of the first attempt.
    k-diffusion's code differs in one case: it repeats an attempt that was cut short at the end, and
    failed, with the uncut h. Here h is the length that was tried.

    **With η** the pair goes from t to r < s, as in `AncestralSteps`, but not past the end. Each
    accepted step then ends with noise from r to s. E does not depend on that noise, so no draw is
    ever refused. q in the rules is then 3/2, as in k-diffusion. Noise needs small tolerances. On
    two-dimensional mixtures, (rtol, atol) = (1e-2, 1e-3) gave a variance within 4 % of the true one
    in most cases. The default tolerances gave a variance several times too large on the widest SDE,
    `EDM`.

    **max_growth.** E may be small by chance, above all in the first steps. The next step would then
    be as long as the whole solve. So a step is at most `max_growth` times as long as the step
    before. Neither published code has this limit. Without it (infinity), the default tolerances
    gave wrong samples on SDEs with a wide range of σ/α. The standard deviations were 0.03 to 6
    times the true ones on mixtures with `VE` and `EDM`. With 2 they were within 9 % on every SDE of
    the tests, mostly for fewer evaluations.

    Each image has its own steps. In both published codes the error of a batch is one number; in the
    authors' code it is the largest error. So our results agree with theirs on one image at a time.
    On a grid of one step, Uniform(1), this solver makes the whole solve. On a longer grid it also
    stops at each time, and starts again with `h_init`. log(α/σ) must be finite on the grid.

    Args:
      rtol: the relative tolerance, in E.
      atol: the absolute tolerance, in E.
      h_init: the length of the first attempt, in log(α/σ).
      safety: the factor of the next length in the authors' rule.
      predicts: "eps" for DPM-Solver, "x0" for DPM-Solver++.
      solver_type: "dpmsolver" or "taylor", as in `DPMSolver`.
      max_steps: the largest number of attempts.
      pcoeff: the coefficient p. The authors' rule uses p, i and d too: E^{−1/q} is p = d = 0, i =
        1.
      icoeff: the coefficient i.
      dcoeff: the coefficient d.
      accept_safety: None for the authors' rule; k-diffusion's value is 0.81.
      eta: as in `AncestralSteps`, on the way to data only.
      s_noise: as in `AncestralSteps`.
      max_growth: the largest ratio of a step's length to the last one's; infinity is the authors'
        rule.
    Error: within the tolerance in each step.
    Raises: ValueError for a field out of range, an unknown type or answer, or a grid with α = 0 or
      σ = 0, or a grid towards noise with η. RuntimeError after `max_steps` attempts.
    Source: Lu et al., arXiv 2206.00927, App. C, with the tolerances of the authors' code;
      k-diffusion's sample_dpm_adaptive; Söderlind, ACM Trans. Math. Softw. 29 (2003).
    """

    rtol: Scalar | float = 0.05
    atol: Scalar | float = 0.0078
    h_init: Scalar | float = 0.05
    safety: Scalar | float = 0.9
    solver_type: str = static(default="dpmsolver")
    predicts: str = static(default="eps")
    max_steps: int = static(default=4096)
    pcoeff: Scalar | float = 0.0
    icoeff: Scalar | float = 1.0
    dcoeff: Scalar | float = 0.0
    accept_safety: Scalar | float | None = None
    eta: Scalar | float = 0.0
    s_noise: Scalar | float = 1.0
    max_growth: Scalar | float = 2.0

    def __post_init__(self):
        require_one_of("solver_type", self.solver_type, TYPES, self)
        require_one_of("predicts", self.predicts, PREDICTIONS, self)
        tolerances = self.rtol >= 0 and self.atol > 0 and self.h_init > 0 and 0 < self.safety < 1 <= self.max_steps
        coefficients = min(self.pcoeff, self.icoeff, self.dcoeff) >= 0 and self.pcoeff + self.icoeff + self.dcoeff > 0
        rule = coefficients and (self.accept_safety is None or 0 < self.accept_safety <= 1)
        if not (tolerances and rule and 0 <= self.eta <= 1 and self.s_noise >= 0 and self.max_growth > 1):
            raise ValueError(
                f"{type(self).__name__} needs rtol >= 0, atol > 0, h_init > 0, 0 < safety < 1, max_steps >= 1, pcoeff, icoeff "
                "and dcoeff >= 0, not all 0, 0 < accept_safety <= 1 or None, 0 <= eta <= 1, s_noise >= 0 and max_growth > 1, "
                f"got {self}."
            )

    def check(self, sde: SDE, times: Times) -> None:
        super().check(sde, times)
        for t in (times[0], times[-1]):
            if not jnp.isfinite(sde.log_snr(jnp.asarray(t))):
                raise ValueError(
                    f"{type(self).__name__} needs a grid where log(α/σ) is finite, which it is not at t={t}; start below "
                    "t_max, or end above 0, as in Uniform(1, start=0.999, end=1e-3)."
                )
        if times[-1] > times[0] and self.eta:
            raise ValueError(
                f"{type(self).__name__} needs eta=0 on the way to noise, got eta={self.eta} and t from {times[0]} up to "
                f"{times[-1]}."
            )

    @property
    @abc.abstractmethod
    def order(self) -> int:
        """q, the higher order."""

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        sde = denoise.sde
        per_image = jax.vmap(jnp.where)
        towards = jnp.sign(rise(sde, t, s))  # −1 on the way to noise

        def active(now):
            return ~now.done & ~jnp.isnan(now.h)

        def advance(now):
            left = towards * rise(sde, now.t, s)
            # `left` is the way that remains, in log(α/σ). The last step is cut to end exactly at s.
            arrives = now.h >= left
            h = jnp.minimum(now.h, left)
            there = jnp.where(arrives, s, inner_time(sde, now.t, towards * h, 1.0))
            r = earlier(sde, now.t, there, self.eta, jnp.minimum(t, s))
            length = jnp.where(r < there, rise(sde, now.t, r), towards * h)
            estimate, fractions = denoise(now.x, now.t), usual_fractions(self.order)
            options = self.order, *fractions, self.predicts, self.solver_type
            lower, higher, between = neighbouring_orders(denoise, estimate, now.t, r, length, *options)
            error = image_errors(higher, lower, now.lower, self.rtol, self.atol, denoise.weight)
            before = jnp.where(now.tries == 0, error, now.errors)
            counts, next_h = self._judge(error, before, h)
            running = active(now)
            accepted, done = running & counts, now.done | (running & counts & arrives)
            # An image that has arrived keeps the t from before its last step. Its steps stay finite,
            # so repeating them until the batch is done gives no NaN. Their results are not used.
            moves = accepted & ~done
            return Progress(
                per_image(accepted, self._noisy(key, now.tries, sde, higher, r, there), now.x),
                per_image(accepted, lower, now.lower),
                jnp.where(moves, there, now.t),
                jnp.where(running, next_h, now.h),
                jnp.where(accepted, jnp.stack([error, before[0]]), before),
                done,
                now.nfe + jnp.where(running, denoise.evaluations(now.t) + between, 0),
                now.tries + 1,
            )

        each = jnp.zeros(x.shape[:1], x.dtype)
        nothing, errors = jnp.zeros_like(each, jnp.int32), jnp.stack([each, each])
        start = Progress(x, x, each + t, each + self.h_init, errors, each > 0, nothing, jnp.zeros((), jnp.int32))
        found = jax.lax.while_loop(lambda now: jnp.any(active(now)) & (now.tries < self.max_steps), advance, start)
        return per_image(found.done, found.x, jnp.full_like(x, jnp.nan)), carry, found.nfe

    def chooses_steps(self) -> bool:
        return True

    def raise_failures(self, failed: Bool[Array, " b"]) -> None:
        name = f"DPM-Solver-{self.order - 1}{self.order}"
        adaptive_ode.raise_if(failed, self.rtol, self.atol, name, self.max_steps)

    def _noisy(self, key: Keys, attempt: Array, sde: SDE, x: Batch, r: Array, s: Array) -> Batch:
        """x_s from x_r of each image by the noise of the SDE, for r <= s."""

        def up():
            noised = noise.diffused(noise.fold_in(key, attempt), sde, x, r, s, self.s_noise)
            return jax.vmap(jnp.where)(r < s, noised, x)

        return jax.lax.cond(jnp.any(r < s), up, lambda: x)

    def _judge(self, error: Array, before: Array, h: Array) -> tuple[Array, Array]:
        """(whether a step of length h with this error is accepted, the length of the next step)."""
        q = jnp.where(jnp.asarray(self.eta) > 0, 1.5, self.order)
        p, i, d = (jnp.asarray(value, h.dtype) / q.astype(h.dtype) for value in (self.pcoeff, self.icoeff, self.dcoeff))

        def factor(now, last, last_but_one):
            return now ** -(p + i + d) * last ** (p + 2 * d) * last_but_one**-d

        if self.accept_safety is None:
            return error <= 1, h * jnp.minimum(self.safety * factor(error, *before), self.max_growth)
        limited = 1 + jnp.arctan(factor(error + LEAST_ERROR, *(before + LEAST_ERROR)) - 1)
        return limited >= self.accept_safety, h * jnp.minimum(limited, self.max_growth)


@pytree
class DPMSolver12(AdaptivePair):
    """`AdaptivePair` of DPM-Solver-1 and -2, with r1 = 1/2: two evaluations an attempt."""

    order: ClassVar[int] = 2


@pytree
class DPMSolver23(AdaptivePair):
    """`AdaptivePair` of DPM-Solver-2 and -3, with r1 = 1/3 in both and r2 = 2/3: three evaluations an attempt."""

    order: ClassVar[int] = 3
