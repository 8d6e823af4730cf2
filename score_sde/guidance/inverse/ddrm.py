"""DDRM: denoising diffusion restoration models."""

from typing import Any

import jax
import jax.numpy as jnp

from score_sde.denoising.dynamics import Denoise
from score_sde.guidance.inverse.base import measurement_of
from score_sde.guidance.inverse.spectral import choose, replaced, seen, times
from score_sde.internal.pytree import pytree
from score_sde.solvers import noise
from score_sde.solvers.base import Batch, Count, Keys, Scalar, Solver, Step


@pytree
class DDRM(Solver):
    """x_s/α_s from x̂0, ε̂ and y, coordinate by coordinate of A = U Σ Vᵀ.

    With ȳ = Σ⁺ Uᵀ y, σ̃ = σ/α at s, and τ = σ_y/Σ, the noise of ȳ:

        not measured   x̂0 + σ̃ (√(1 − η²) ε̂ + η z)
        σ̃ < τ          x̂0 + σ̃ (√(1 − η²) (ȳ − x̂0)/τ + η z)
        σ̃ >= τ         (1 − η_b) x̂0 + η_b ȳ + √(σ̃² − η_b² τ²) z

    The start is x ~ N(ȳ, σ̃² − τ²) where this is less noisy than the prior. The amount of noise is
    set by the three fields.

    Args:
      eta: the amount of new noise, 0 to 1.
      eta_b: the weight of ȳ where ȳ has less noise than x_s, 0 to 1.
      eta_after: η of the second row. None is eta.
    Error: the same as for `Replacement`. The model does not know how certain ȳ is.
    Raises: ValueError unless all are in [0, 1]; for an operator whose decomposition is not known.
    Source: Kawar et al., arXiv 2201.11793, Eqs. 7 and 8, with its η = 0.85 and η_b = 1.
    """

    eta: float = 0.85
    eta_b: float = 1.0
    eta_after: float | None = None

    def __post_init__(self):
        after = self.eta if self.eta_after is None else self.eta_after
        if not all(0 <= value <= 1 for value in (self.eta, self.eta_b, after)):
            raise ValueError(f"DDRM needs eta, eta_b and eta_after in [0, 1], got {self}.")

    def init(self, x: Batch, num_steps: Count) -> Any:
        """Whether the next step is the first."""
        return jnp.ones((), bool)

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        sde, measured = denoise.sde, seen(self, measurement_of(self, denoise), x)
        operator, y, std = measured
        x = jax.lax.cond(carry, lambda: replaced(noise.fold_in(key, 0), sde, x, t, measured), lambda: x)
        estimate = denoise(x, t)
        x0, eps = (operator.to_coordinates(each) for each in estimate)
        z = operator.to_coordinates(noise.like(noise.fold_in(key, 1), sde, x))
        level = sde.sigma(s) / sde.alpha(s)
        eta, after, eta_b = (
            jnp.asarray(value, x.dtype)
            for value in (self.eta, self.eta if self.eta_after is None else self.eta_after, self.eta_b)
        )
        finite = jnp.where((std > 0) & jnp.isfinite(std), std, 1)
        unmeasured = x0 + times(level * jnp.sqrt(1 - eta**2), eps) + times(level * eta, z)
        noisier = x0 + times(level * jnp.sqrt(1 - after**2) / finite, y - x0) + times(level * after, z)
        rest = jnp.sqrt(jnp.maximum(level**2 - (eta_b * jnp.where(jnp.isfinite(std), std, 0)) ** 2, 0))
        known = x0 + times(eta_b, y - x0) + times(rest, z)
        mixed = choose(jnp.isinf(std), unmeasured, choose(level < std, noisier, known))
        moved = sde.alpha(s) * operator.from_coordinates(mixed, x.shape[1:]).astype(x.dtype)
        return moved, jnp.zeros((), bool), denoise.evaluations(t)
