"""DDIM: from deterministic (η = 0) to ancestral (η = 1)."""

from typing import Any

import jax.numpy as jnp

from score_sde.denoising.dynamics import Denoise
from score_sde.internal.pytree import pytree
from score_sde.solvers import noise
from score_sde.solvers.base import Batch, Keys, Scalar, Solver, Step


@pytree
class DDIM(Solver):
    """x_s = α_s x̂0 + √(σ_s² − v) ε̂ + √v z, with v = η² σ_s² σ_{t|s}²/σ_t².

    η = 0 is the exponential Euler step of the probability flow. η = 1 draws from the posterior, as
    `Ancestral` does. At σ_s = 0 the step is x̂0.

    Args:
      eta: η, the amount of noise, 0 to 1.
    Error: order 1 for η = 0; exact when x̂0 is constant.
    Raises: ValueError unless 0 <= eta <= 1.
    Source: Song et al., arXiv 2010.02502, Eqs. 12 and 16, written in α, σ.
    """

    eta: float = 0.0

    def __post_init__(self):
        if not 0 <= self.eta <= 1:
            raise ValueError(f"DDIM needs 0 <= eta <= 1, got eta={self.eta}.")

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        sde = denoise.sde
        x0, eps = denoise(x, t)
        scale, std = sde.transition(s, t)
        sigma, ratio = sde.sigma(s), sde.sigma(s) / sde.sigma(t)
        # √(σ_s² − v) = σ_s √(1 − η² σ_{t|s}²/σ_t²), and σ_{t|s}²/σ_t² = 1 − (α_{t|s} σ_s/σ_t)².
        # Together they are a sum of positive terms, which does not cancel for η = 1.
        kept = jnp.sqrt((1 - self.eta**2) + (self.eta * scale * ratio) ** 2)
        added = jnp.where(
            jnp.asarray(self.eta) == 0, jnp.zeros_like(ratio), self.eta * ratio * std
        )  # std is NaN for s > t
        x = sde.alpha(s) * x0 + sigma * kept * eps + noise.scaled(key, sde, x, added)
        return x, carry, denoise.evaluations(t)
