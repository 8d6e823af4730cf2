"""DDNM+: null-space models for measurements with noise."""

from typing import Any

import jax.numpy as jnp

from score_sde.denoising.dynamics import Denoise
from score_sde.guidance.inverse.base import measurement_of
from score_sde.guidance.inverse.spectral import choose, seen, times
from score_sde.internal.pytree import pytree
from score_sde.solvers import noise
from score_sde.solvers.base import Batch, Keys, Scalar, Solver, Step


@pytree
class DDNMPlus(Solver):
    """x_s = α_s (x̂0 + λ (ȳ − x̂0)) + noise, coordinate by coordinate of A = U Σ Vᵀ.

    With ȳ = Σ⁺ Uᵀ y and τ = α_s σ_y/Σ:

        not measured    λ = 0                      noise σ_s (√(1 − η²) ε̂ + η z)
        σ_s >= τ        λ = 1                      noise √(σ_s² − τ²) z
        σ_s < τ         λ = √(1 − η²) σ_s/τ        noise σ_s η z

    λ is as large as the noise of ȳ allows. Time travel is a grid with `Jumps`, and
    Restart(DDNMPlus()).

    Args:
      eta: the amount of new noise, 0 to 1.
    Raises: ValueError unless 0 <= eta <= 1; for an operator whose decomposition is not known.
    Source: Wang et al., arXiv 2212.00490, Sec. 3.3 and App. I, with its η = 0.85. λ for η > 0 is
      taken from the code.
    """

    eta: float = 0.85

    def __post_init__(self):
        if not 0 <= self.eta <= 1:
            raise ValueError(f"DDNMPlus needs 0 <= eta <= 1, got eta={self.eta}.")

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        sde = denoise.sde
        operator, y, std = seen(self, measurement_of(self, denoise), x)
        x0, eps = (operator.to_coordinates(each) for each in denoise(x, t))
        z = operator.to_coordinates(noise.like(key, sde, x))
        alpha, sigma, eta = sde.alpha(s), sde.sigma(s), jnp.asarray(self.eta, x.dtype)
        is_measured = jnp.isfinite(std)
        brought = alpha * jnp.where(is_measured, std, 0)  # τ
        is_known = is_measured & (sigma >= brought)
        kept = jnp.sqrt(1 - eta**2)
        share = kept * sigma / jnp.where(brought > 0, brought, 1)
        share = jnp.where(is_measured, jnp.where(is_known, 1, share), 0)
        drawn = jnp.where(is_known, jnp.sqrt(jnp.maximum(sigma**2 - brought**2, 0)), sigma * eta)
        moved = times(alpha, x0 + times(share, y - x0)) + times(drawn, z)
        moved = choose(is_measured, moved, moved + times(sigma * kept, eps))
        return operator.from_coordinates(moved, x.shape[1:]).astype(x.dtype), carry, denoise.evaluations(t)
