"""The step of DDNM, DiffPIR and DAPS: new noise is added to the estimate of x0, up to the next noise level."""

from typing import Any

import jax.numpy as jnp

from score_sde.denoising.dynamics import Denoise
from score_sde.internal.pytree import pytree
from score_sde.solvers import noise
from score_sde.solvers.base import Batch, Keys, Scalar, Solver, Step


@pytree
class Renoise(Solver):
    """x_s = α_s x̂0 + σ_s (√(1 − η²) ε̂ + η z).

    η = 0 is `DDIM`, and η = 1 forgets x_t. For a model alone, this does not sample the SDE: with η
    > 0 it adds more noise than was removed. The authors of DDNM (η = 0.85), DiffPIR (η = √ζ) and
    ΠGDM run this step.

    Raises: ValueError unless 0 <= eta <= 1.
    Source: the code of arXiv 2212.00490; arXiv 2305.08995, Eq. 14.
    """

    eta: float = 0.85

    def __post_init__(self):
        if not 0 <= self.eta <= 1:
            raise ValueError(f"Renoise needs 0 <= eta <= 1, got eta={self.eta}.")

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        sde = denoise.sde
        x0, eps = denoise(x, t)
        alpha, sigma, eta = sde.alpha(s), sde.sigma(s), jnp.asarray(self.eta, x.dtype)
        mean = alpha * x0 + sigma * jnp.sqrt(1 - eta**2) * eps
        return mean + noise.scaled(key, sde, x, sigma * eta), carry, denoise.evaluations(t)
