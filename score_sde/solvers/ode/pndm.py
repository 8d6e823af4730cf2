"""PNDM and iPNDM: Adams–Bashforth combinations of ε̂ for equal steps, applied from t to s as DDIM applies ε̂."""

from typing import Any

import jax
import jax.numpy as jnp

from score_sde.denoising.dynamics import Denoise
from score_sde.denoising.estimate import Estimate
from score_sde.internal.pytree import pytree, static
from score_sde.sdes.base import SDE
from score_sde.solvers import history
from score_sde.solvers.base import Batch, Count, Keys, Scalar, Solver, Step
from score_sde.solvers.integrators import ddim, require_one_of, transfer


def moved(sde: SDE, estimate: Estimate, t: Scalar, s: Scalar, eps: Batch) -> Batch:
    """α_s/α_t x + (σ_s − σ_t α_s/α_t) ε, for another ε than the one of `estimate`.

    From α(t) = 0 the step uses the ε̂ of `estimate`.
    """
    length = transfer(sde, t, s)
    return ddim(sde, estimate, s) + jnp.where(jnp.isfinite(length), length, 0.0) * (eps - estimate.eps)


def adams(past: history.History, order: int, eps: Batch) -> Batch:
    """(3ε − ε_1)/2, (23ε − 16ε_1 + 5ε_2)/12, (55ε − 59ε_1 + 37ε_2 − 9ε_3)/24, and so on.

    The combination takes as many ε as the history holds, at most `order`.
    """
    nodes = -jnp.arange(1, len(past.times) + 1, dtype=past.times.dtype)
    integrals = 1 / jnp.arange(1, order + 1, dtype=past.times.dtype)
    return eps + history.correction(history.weights(nodes, past.order(order), integrals), past.answers, eps)


@pytree
class IPNDM(Solver):
    """x_s = α_s/α_t x + (σ_s − σ_t α_s/α_t) ε', with ε' the Adams–Bashforth combination for equal steps.

    The combination takes the last `order` ε̂. The first steps have lower order: DDIM, then the
    two-step rule, and so on. So each step makes one evaluation.

    Args:
      order: the largest number of ε̂ in the combination.
    Error: `order` on equal steps of σ/α, for which the weights are right; order 2 where the steps
      change smoothly, order 1 in general. `LMS` has the weights of the steps that it makes.
    Raises: ValueError unless order >= 1.
    Source: Zhang & Chen, arXiv 2204.13902 (iPNDM); Liu et al., arXiv 2202.09778, Sec. 3.
    """

    order: int = static(default=4)

    def __post_init__(self):
        if self.order < 1:
            raise ValueError(f"IPNDM needs order >= 1, got order={self.order}.")

    def init(self, x: Batch, num_steps: Count) -> history.History:
        return history.start(x, max(1, self.order - 1), num_steps)

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        sde = denoise.sde
        estimate = denoise(x, t)
        x = moved(sde, estimate, t, s, adams(carry, self.order, estimate.eps))
        return x, carry.push(estimate.eps, t), denoise.evaluations(t)


@pytree
class PNDM(Solver):
    """x_s = α_s/α_t x + (σ_s − σ_t α_s/α_t) ε', with ε' = (55ε̂ − 59ε̂_1 + 37ε̂_2 − 9ε̂_3)/24.

    `warm_up` says how the first steps are made, before there are four ε̂:

    - "runge_kutta", as in the paper: the first three steps have ε' = (e_1 + 2e_2 + 2e_3 + e_4)/6.
      Their four evaluations are at t, twice at (t + s)/2, and at s.
    - "plms", as in latent diffusion: the first step has ε' = (ε̂(x, t) + ε̂(x_s, s))/2, by two
      evaluations. The next steps combine two and three ε̂.

    A step of the warm-up from α(t) = 0 or to σ(s) = 0 is a DDIM step.

    Args:
      warm_up: "runge_kutta" or "plms".
    Error: as for `IPNDM`. "runge_kutta" is unstable in a first step in which σ/α falls by a large
      factor, as in the paper's code. On iDDPM's table, σ/α falls from 20,000 to 41 in the first of
      64 equal steps in t. A Gaussian then ends thousands of standard deviations off. With "plms" it
      ends 0.3 off, and with `IPNDM` 0.0003. On `EDMRho` both warm-ups end 0.02 off.
    Raises: ValueError for an unknown warm-up.
    Source: Liu et al., arXiv 2202.09778, Algorithm 2; diffusers' PNDMScheduler.
    """

    warm_up: str = static(default="runge_kutta")

    def __post_init__(self):
        require_one_of("warm_up", self.warm_up, ("runge_kutta", "plms"), self)

    def init(self, x: Batch, num_steps: Count) -> history.History:
        return history.start(x, 3, num_steps)

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        sde = denoise.sde
        past, first, middle = carry, denoise(x, t), 0.5 * (t + s)

        def runge_kutta():
            second = denoise(ddim(sde, first, middle), middle).eps
            third = denoise(moved(sde, first, t, middle, second), middle).eps
            fourth = denoise(moved(sde, first, t, s, third), s).eps
            return (first.eps + 2 * second + 2 * third + fourth) / 6

        def plms():
            return 0.5 * (first.eps + denoise(ddim(sde, first, s), s).eps)

        more = denoise.evaluations(s)
        if self.warm_up == "runge_kutta":
            start, length, more = runge_kutta, 3, more + 2 * denoise.evaluations(middle)
        else:
            start, length = plms, 1
        warm = (past.made < length) & (sde.sigma(s) > 0) & (sde.alpha(t) > 0)
        eps = jax.lax.cond(warm, start, lambda: adams(past, 4, first.eps))
        evaluations = denoise.evaluations(t) + jnp.where(warm, more, 0)
        return moved(sde, first, t, s, eps), past.push(first.eps, t), evaluations
