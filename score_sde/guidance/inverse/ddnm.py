"""DDNM: denoising diffusion null-space models."""

from score_sde.denoising.dynamics import Denoise
from score_sde.denoising.estimate import Estimate
from score_sde.guidance.inverse.base import Images, Measurement, NoiseStd, Posterior, residual
from score_sde.guidance.operators import Linear
from score_sde.internal.pytree import pytree
from score_sde.sdes.base import Time


@pytree
class DDNM(Posterior):
    """x̂0 + A⁺ (y − A x̂0), with ε̂ unchanged: the range of A⁺ comes from y, and the null space from the model.

    It is for measurements without noise; `DDNMPlus` is for noise. The paper's solver is
    `Renoise(0.85)`.

    Error: the measured part informs the null space only through x_t, so samples are too spread
      there.
    Raises: ValueError for noise_std other than 0.
    Source: Wang et al., arXiv 2212.00490, Eq. 13 and Algorithm 1.
    """

    operator: Linear
    noise_std: NoiseStd = 0.0

    def __post_init__(self):
        if self.noise_std != 0:
            raise ValueError(f"DDNM needs noise_std = 0, got noise_std={self.noise_std}; use DDNMPlus for noise.")

    def estimate(self, model: Denoise, x: Images, t: Time, measurement: Measurement) -> Estimate:
        x0, eps = model(x, t)
        return Estimate(x0 + self.operator.pseudo_inverse(residual(measurement, x0), x.shape[1:]), eps)
