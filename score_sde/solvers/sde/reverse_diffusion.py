"""The reverse-diffusion predictor: the reverse SDE, discretized in the same way as the forward SDE."""

from typing import Any

from score_sde.denoising.dynamics import Denoise, score
from score_sde.internal.pytree import pytree
from score_sde.solvers import noise
from score_sde.solvers.base import Batch, Keys, Scalar, Solver, Step


@pytree
class ReverseDiffusion(Solver):
    """x_s = (2 − α_{t|s}) x + σ_{t|s}² ∇ log p_t + σ_{t|s} z, with p(x_t | x_s) = N(α_{t|s} x_s, σ_{t|s}² I).

    For VP these are the paper's f = (√α_i − 1) x and G = √β_i. For VE it is the paper's G² = σ_i² −
    σ_{i−1}². The paper takes β_i = β(i/N)/N from a table. Here α_{t|s} and σ_{t|s} come from the
    exact transition between the grid's times, so the rule exists for every SDE and every grid. The
    last step adds noise too; `DenoiseLast` removes it.

    Error: weak order 1. Where α = 0 at t_max (`Flow`, `Cosine`), the first step doubles the
      variance, whatever its size. Later steps forget this error.
    Source: Song et al., arXiv 2011.13456, Eq. 46 and App. E.
    """

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        sde = denoise.sde
        scale, std = sde.transition(s, t)
        gradient = score(sde, denoise(x, t), t)
        x = (2 - scale) * x + std**2 * gradient + std * noise.like(key, sde, x)
        return x, carry, denoise.evaluations(t)
