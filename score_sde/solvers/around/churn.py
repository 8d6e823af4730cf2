"""Churn: noise added before each step of any solver, as in EDM and AlphaFold 3."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.denoising.dynamics import Denoise
from score_sde.internal.pytree import pytree
from score_sde.sdes.base import SDE
from score_sde.solvers import noise
from score_sde.solvers.base import Batch, Count, Keys, Scalar, Solver, Step, Wrapper


def add_noise(
    key: Keys, sde: SDE, x: Batch, t: Scalar, gamma: Scalar, scale: Scalar | float
) -> tuple[Batch, Float[Array, ""]]:
    """(x̂, t̂) with σ̃(t̂) = (1 + γ) σ̃(t) and x̂ = α_{t̂|t} x + scale · σ_{t̂|t} z; σ̃ = σ/α.

    γ = 0 draws nothing. Where σ̃(t) is infinite, no noise can be added.
    """
    log_snr = sde.log_snr(t)

    def churn():
        later = sde.time_of_log_snr(log_snr - 2 * jnp.log1p(gamma))
        return noise.diffused(key, sde, x, t, later, scale), later

    return jax.lax.cond((gamma > 0) & jnp.isfinite(log_snr), churn, lambda: (x, t))


def gamma_of_each_step(S_churn: Scalar | float, x: Batch, num_steps: Count) -> Float[Array, ""]:
    """min(S_churn/num_steps, √2 − 1), EDM's γ."""
    churn = jnp.asarray(S_churn, x.dtype) / jnp.asarray(num_steps, x.dtype)
    return jnp.minimum(churn, jnp.sqrt(jnp.asarray(2, x.dtype)) - 1)


def between(gamma: Scalar, sde: SDE, t: Scalar, S_min: Scalar | float, S_max: Scalar | float) -> Float[Array, ""]:
    """γ where S_min <= σ̃(t) <= S_max, else 0."""
    ratio = jnp.exp(-0.5 * sde.log_snr(t))
    return jnp.where((S_min <= ratio) & (ratio <= S_max), gamma, 0.0)


@pytree
class Churn(Wrapper):
    """x̂ = x with noise added up to σ̂ = (1 + γ) σ̃, then `solver`'s step from t̂ to s; σ̃ = σ/α.

    γ = min(S_churn/num_steps, √2 − 1) where S_min <= σ̃ <= S_max, else 0. The added noise has the
    standard deviation S_noise √(σ̂² − σ̃²) in x/α. S_churn sets the amount of noise, and 0 adds
    none. Churn(Heun()) is `EDMHeun`.

    Args:
      solver: the solver whose steps follow the noise.
      S_churn: the amount of noise over the whole solve; 0 adds none.
      S_min: the lowest σ̃ at which noise is added.
      S_max: the highest σ̃ at which noise is added.
      S_noise: a factor of the standard deviation of the noise.
    Error: the weak error of `solver`.
    Raises: ValueError for negative fields.
    Source: Karras et al., arXiv 2206.00364, Algorithm 2.
    """

    solver: Solver
    S_churn: float = 0.0
    S_min: float = 0.0
    S_max: float = float("inf")
    S_noise: float = 1.0

    def __post_init__(self):
        if not (self.S_churn >= 0 and 0 <= self.S_min <= self.S_max and self.S_noise >= 0):
            raise ValueError(f"Churn needs S_churn >= 0, 0 <= S_min <= S_max and S_noise >= 0, got {self}.")

    def init(self, x: Batch, num_steps: Count) -> Any:
        """(the carry of the solver, γ of each step)."""
        return super().init(x, num_steps), gamma_of_each_step(self.S_churn, x, num_steps)

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        sde, (inner, gamma) = denoise.sde, carry
        added = between(gamma, sde, t, self.S_min, self.S_max)
        x, t = add_noise(noise.fold_in(key, 0), sde, x, t, added, self.S_noise)
        x, inner, evaluations = self.solver.step(noise.fold_in(key, 1), denoise, x, t, s, inner)
        return x, (inner, gamma), evaluations


@pytree
class StepScale(Wrapper):
    """ŷ = y with noise added up to σ̂ = (1 + γ) σ̃, then y_s = ŷ + η (`solver`'s y_s − ŷ); y = x/α, σ̃ = σ/α.

    η is `step_scale`. γ = gamma_0 where σ̃(s) > gamma_min, else 0. The added noise is noise_scale
    (λ in the paper) times √(σ̂² − σ̃²). gamma_0 sets how much noise is added, and 0 adds none.
    step_scale > 1 makes the samples less diverse, and their marginals differ from the
    marginals of the data. A step to σ = 0 is extrapolated too, as in the paper.

    AlphaFold 3's sampler is Hook(StepScale(DDIM()), RandomRigidMotion()) on `EDM` with `EDMRho`,
    where σ and gamma_min are in Å.

    Args:
      solver: the solver whose steps are scaled.
      step_scale: η, the factor of a step.
      noise_scale: a factor of the standard deviation of the noise.
      gamma_0: γ, the amount of noise; 0 adds none.
      gamma_min: the σ̃(s) above which noise is added.
    Raises: ValueError for negative fields.
    Source: Abramson et al., Nature 630 (2024), Supplementary Algorithm 18 and its defaults. The
      direction is taken from the noised points, as in the authors' code.
    """

    solver: Solver
    step_scale: float = 1.5
    noise_scale: float = 1.003
    gamma_0: float = 0.8
    gamma_min: float = 1.0

    def __post_init__(self):
        if not min(self.step_scale, self.noise_scale, self.gamma_0, self.gamma_min) >= 0:
            raise ValueError(
                f"StepScale needs step_scale, noise_scale, gamma_0 and gamma_min of at least 0, got {self}."
            )

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        sde = denoise.sde
        after = jnp.exp(-0.5 * sde.log_snr(s))
        gamma = jnp.where(after > self.gamma_min, jnp.asarray(self.gamma_0, x.dtype), 0.0)
        x, t = add_noise(noise.fold_in(key, 0), sde, x, t, gamma, self.noise_scale)
        moved, carry, evaluations = self.solver.step(noise.fold_in(key, 1), denoise, x, t, s, carry)
        kept = jnp.exp(sde.log_alpha(s) - sde.log_alpha(t)) * x
        # x at s for an unchanged y is (α_s/α_t) x. Where α(t) = 0, y is infinite and has no move to scale.
        moved = jnp.where(sde.alpha(t) > 0, kept + self.step_scale * (moved - kept), moved)
        return moved, carry, evaluations
