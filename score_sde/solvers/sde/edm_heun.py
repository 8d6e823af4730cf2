"""EDM's stochastic sampler: it adds noise before each second-order step of the probability flow."""

from typing import Any

from jaxtyping import Array, Float

from score_sde.denoising.dynamics import Denoise
from score_sde.internal.pytree import pytree
from score_sde.solvers.around.churn import add_noise, between, gamma_of_each_step
from score_sde.solvers.base import Batch, Count, Keys, Scalar, Solver, Step
from score_sde.solvers.ode.probability_flow import second_order


@pytree
class EDMHeun(Solver):
    """x̂ = x with noise added up to σ̂ = (1 + γ) σ̃, then Heun's step in t from t̂ to s; σ̃ = σ/α.

    γ = min(S_churn/num_steps, √2 − 1) where S_min <= σ̃ <= S_max and σ̃ is finite, else 0. The
    added noise has the standard deviation S_noise √(σ̂² − σ̃²) in x/α. S_churn = 0 is the
    deterministic sampler. Steps near t_max go above t_max unless S_max is below it, as in EDM's
    code. A step to σ(s) = 0 makes one evaluation instead of two.

    Args:
      S_churn: the amount of noise over the whole solve; 0 adds none.
      S_min: the lowest σ̃ at which noise is added.
      S_max: the highest σ̃ at which noise is added.
      S_noise: a factor of the standard deviation of the noise.
      fraction: α of EDM's ablation sampler: 1 for Heun's method, 1/2 for the midpoint rule, 2/3 for
        Ralston's method.
    Error: order 2 in t; weak order 2 with churn.
    Raises: ValueError for negative fields or fraction outside of (0, 1].
    Source: Karras et al., arXiv 2206.00364, Algorithm 2; for α ≠ 1 or σ ≠ t, Algorithm 3 and the
      code's ablation_sampler.
    """

    S_churn: float = 0.0
    S_min: float = 0.0
    S_max: float = float("inf")
    S_noise: float = 1.0
    fraction: float = 1.0

    def __post_init__(self):
        if not (self.S_churn >= 0 and 0 <= self.S_min <= self.S_max and self.S_noise >= 0 and 0 < self.fraction <= 1):
            raise ValueError(
                f"EDMHeun needs S_churn >= 0, 0 <= S_min <= S_max, S_noise >= 0 and 0 < fraction <= 1, got {self}."
            )

    def init(self, x: Batch, num_steps: Count) -> Float[Array, ""]:
        """γ of each step."""
        return gamma_of_each_step(self.S_churn, x, num_steps)

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        sde, gamma = denoise.sde, carry
        x, t = add_noise(key, sde, x, t, between(gamma, sde, t, self.S_min, self.S_max), self.S_noise)
        x, evaluations = second_order(denoise, x, t, s, self.fraction)
        return x, gamma, evaluations
