"""MMPS: moment matching posterior sampling."""

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
from score_sde.guidance.operators import Linear, conjugate_gradients
from score_sde.guidance.tilt import covariance_gain, tilted
from score_sde.internal.pytree import pytree
from score_sde.sdes.base import Time


@pytree
class MMPS(Posterior):
    """∇ log p(y | x_t) ≈ Jᵀ Aᵀ (σ_y² I + A V Aᵀ)⁻¹ (y − A x̂0), with V = Cov[x0 | x_t] = (σ²/α) Jᵀ.

    The linear system is solved by at most `max_steps` conjugate gradient steps. Each step is a
    product with Jᵀ and with A. The paper stops after a few steps, which also regularizes.

    V is a covariance if the denoiser is exact. The Jacobian of a trained network may have negative
    eigenvalues, and the system then has no sensible solution. So an image stops before a direction
    in which the matrix is below σ_y²/2.

    Args:
      max_steps: the most conjugate gradient steps.
      tolerance: the size of the residual, relative to y − A x̂0, at which they stop.
    Error: exact for Gaussian data with enough steps (as many as there are different eigenvalues).
      For other data, p(x0 | x_t) is replaced by a Gaussian with the right mean and covariance.
    Raises: ValueError unless noise_std >= 0 and max_steps >= 1.
    Source: Rozet et al., arXiv 2405.13712, Eq. 16 and Algorithm 3; Tweedie's covariance: Finzi et
      al., arXiv 2306.07526.
    """

    operator: Linear
    noise_std: NoiseStd = 0.0
    max_steps: int = 3
    tolerance: float = 1e-6

    def __post_init__(self):
        check_noise_std(self, self.noise_std)
        if not self.max_steps >= 1:
            raise ValueError(f"MMPS needs max_steps >= 1, got max_steps={self.max_steps}.")

    def estimate(self, model: Denoise, x: Images, t: Time, measurement: Measurement) -> Estimate:
        operator, shape = self.operator, x.shape[1:]
        estimate, pullback = with_pullback(model, x, t)
        gain = covariance_gain(model.sde, x, t)

        def covariance_of_y(v):
            return self.noise_std**2 * v + operator(gain * pullback(operator.adjoint(v, shape)))

        error = residual(measurement, estimate.x0)
        least = self.noise_std**2 / 2  # the curvature is at least σ_y² where V is a covariance
        inner = conjugate_gradients(covariance_of_y, error, self.max_steps, self.tolerance, least)
        return tilted(model.sde, x, t, estimate, pullback(operator.adjoint(inner, shape)))
