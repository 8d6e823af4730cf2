"""Ancestral sampling: x_s drawn from the Gaussian posterior given x_t and x̂0."""

from typing import Any

from score_sde.denoising.dynamics import Denoise
from score_sde.internal.pytree import pytree
from score_sde.solvers import noise
from score_sde.solvers.base import Batch, Keys, Scalar, Solver, Step


@pytree
class Ancestral(Solver):
    """x_s ~ N(α_s r x̂0 + α_{t|s} (σ_s/σ_t)² x, β̃^(1−v) β^v I), with β = σ_{t|s}², r = β/σ_t², β̃ = β (σ_s/σ_t)².

    v = 0 is the posterior q(x_s | x_t, x0 = x̂0), for every SDE that has a transition. Its variance
    β̃ is the lower bound, which is right for data that are one exact point. It adds no noise at σ_s
    = 0. v = 1 is the upper bound. The 2021 paper uses v = 1 for VP, and v = 0 for VE. Values
    between are iDDPM's interpolation.

    Args:
      v: the exponent that interpolates the variance, 0 to 1.
    Error: weak order 1. Exact where x̂0 is constant and v = 0.
    Raises: ValueError unless 0 <= v <= 1.
    Source: Ho et al., arXiv 2006.11239, Eqs. 6–7; Song et al., arXiv 2011.13456, Eqs. 4 and 47;
      Nichol & Dhariwal, arXiv 2102.09672, Eq. 15.
    """

    v: float = 0.0

    def __post_init__(self):
        if not 0 <= self.v <= 1:
            raise ValueError(f"Ancestral needs 0 <= v <= 1, got v={self.v}.")

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        sde = denoise.sde
        scale, std = sde.transition(s, t)
        sigma = sde.sigma(t)
        ratio = sde.sigma(s) / sigma
        mean = sde.alpha(s) * (std / sigma) ** 2 * denoise(x, t).x0 + scale * ratio**2 * x
        return mean + noise.scaled(key, sde, x, std * ratio ** (1 - self.v)), carry, denoise.evaluations(t)
