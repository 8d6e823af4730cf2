"""ΠGDM: pseudo-inverse-guided diffusion."""

from score_sde.denoising.dynamics import Denoise
from score_sde.denoising.estimate import Estimate
from score_sde.guidance.inverse.base import (
    Images,
    Measurement,
    NoiseStd,
    Posterior,
    check_noise_std,
    gaussian_spread,
    residual,
    with_pullback,
)
from score_sde.guidance.operators import Linear
from score_sde.guidance.tilt import tilted
from score_sde.internal.broadcast import expand_like
from score_sde.internal.pytree import pytree, static
from score_sde.sdes.base import Time


@pytree
class PiGDM(Posterior):
    """∇ log p(y | x_t) ≈ g = Jᵀ Aᵀ (r² A Aᵀ + σ_y² I)⁻¹ (y − A x̂0), with r² = σ_d² σ²/(α² σ_d² + σ²).

    The method replaces p(x0 | x_t) by N(x̂0, r² I), which is right for data N(0, σ_d² I).
    `data_std` is σ_d; the paper's data have variance 1. noise_std = 0 gives the pseudo-inverse.

    Args:
      data_std: σ_d, the standard deviation of the data.
      as_published: whether to use x̂0 + α r² g with ε̂ unchanged, the paper's Algorithm 1 (with
        `Renoise` as the solver). By default the pair follows from the score: x̂0 + (σ²/α) g and ε̂
        − σ g, for every SDE.
      max_steps: the number of conjugate gradient steps, for operators whose singular values are not
        known.
    Error: exact for data N(μ, σ_d² I). For other data g is too weak or too strong where their
      spread is not σ_d.
    Raises: ValueError unless noise_std >= 0 and data_std > 0.
    Source: Song et al., ICLR 2023 (openreview 9_gsMA8MRKQ), Eqs. 7 to 9 and Algorithm 1.
    """

    operator: Linear
    noise_std: NoiseStd = 0.0
    data_std: float = 1.0
    as_published: bool = static(default=False)
    max_steps: int = 100

    def __post_init__(self):
        check_noise_std(self, self.noise_std)
        if not self.data_std > 0:
            raise ValueError(f"PiGDM needs data_std > 0, got data_std={self.data_std}.")

    def estimate(self, model: Denoise, x: Images, t: Time, measurement: Measurement) -> Estimate:
        sde = model.sde
        estimate, pullback = with_pullback(model, x, t)
        spread = gaussian_spread(sde, t, self.data_std)
        error = residual(measurement, estimate.x0)
        back = self.operator.damped_inverse(error, x.shape[1:], spread, self.noise_std**2, self.max_steps)
        gradient = pullback(back)
        if self.as_published:
            return Estimate(estimate.x0 + expand_like(sde.alpha(t) * spread, x) * gradient, estimate.eps)
        return tilted(sde, x, t, estimate, gradient)
