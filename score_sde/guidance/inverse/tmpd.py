"""TMPD: Tweedie moment projected diffusion."""

import jax.numpy as jnp

from score_sde.denoising.dynamics import Denoise
from score_sde.denoising.estimate import Estimate
from score_sde.guidance.inverse.base import (
    Images,
    Measurement,
    NoiseStd,
    Posterior,
    check_noise_std,
    residual,
    with_pullback,
)
from score_sde.guidance.operators import Linear
from score_sde.guidance.tilt import covariance_gain, tilted
from score_sde.internal.pytree import pytree
from score_sde.sdes.base import Time


@pytree
class TMPD(Posterior):
    """∇ log p(y | x_t) ≈ Jᵀ Aᵀ (y − A x̂0)/(σ_y² + A V Aᵀ 1), with V = Cov[x0 | x_t] = (σ²/α) Jᵀ and elementwise division.

    The row sums A V Aᵀ 1 replace the covariance matrix of y. They need one product with Jᵀ, where
    `MMPS` needs several.

    Error: exact for Gaussian data whose A V Aᵀ is diagonal, as for masks and independent pixels.
      Where A mixes pixels with both signs, row sums can be near 0 or negative, and the estimate can
      be far off.
    Raises: ValueError unless noise_std > 0.
    Source: Boys et al., arXiv 2310.06721, Eqs. 9 and 10.
    """

    operator: Linear
    noise_std: NoiseStd = 0.05

    def __post_init__(self):
        check_noise_std(self, self.noise_std, least=1.0)

    def estimate(self, model: Denoise, x: Images, t: Time, measurement: Measurement) -> Estimate:
        operator, shape = self.operator, x.shape[1:]
        estimate, pullback = with_pullback(model, x, t)
        error = residual(measurement, estimate.x0)
        across = pullback(operator.adjoint(jnp.ones_like(error), shape))
        variance = self.noise_std**2 + operator(covariance_gain(model.sde, x, t) * across)
        return tilted(model.sde, x, t, estimate, pullback(operator.adjoint(error / variance, shape)))
