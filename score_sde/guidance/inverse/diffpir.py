"""DiffPIR: denoising diffusion models for plug-and-play image restoration."""

import jax

from score_sde.denoising.dynamics import Denoise
from score_sde.denoising.estimate import Estimate
from score_sde.guidance.base import with_x0
from score_sde.guidance.inverse.base import Images, Measurement, NoiseStd, Posterior, check_noise_std, residual
from score_sde.guidance.operators import Linear, Operator
from score_sde.internal.broadcast import expand_like
from score_sde.internal.pytree import pytree, static
from score_sde.sdes.base import Time


@pytree
class DiffPIR(Posterior):
    """argmin over x of ‖y − A x‖² + ρ ‖x − x̂0‖², with ρ = weight · σ_y² α²/σ², and ε̂ to match.

    This is x̂0 + Aᵀ (A Aᵀ + ρ I)⁻¹ (y − A x̂0). It is in closed form where singular values are
    known, and by conjugate gradients elsewhere. The paper's solver is `Renoise(√ζ)`, with ζ between
    0.1 and 1.

    Args:
      weight: the weight of x̂0 against y.
      first_order: whether to take one gradient step, x̂0 + Jᵀ (y − A(x̂0))/ρ with J = ∂A/∂x, instead
        of the minimum. It works with every operator, also with a nonlinear one. It needs ρ larger
        than the squares of A's singular values, or it goes too far.
      max_steps: the number of conjugate gradient steps, for operators whose singular values are not
        known.

    Error: exact where Cov[x0 | x_t] is σ²/(weight α²) I. For weight = 1 these are data that are
      spread much more than σ/α.
    Raises: ValueError unless noise_std > 0 and weight > 0; for a nonlinear operator without
      first_order.
    Source: Zhu et al., arXiv 2305.08995, Eqs. 12 and 13 (`first_order`) and Algorithm 1; `weight` is its λ, 7 in
      deepinv.
    """

    operator: Operator
    noise_std: NoiseStd = 0.05
    weight: float = 7.0
    max_steps: int = 100
    first_order: bool = static(default=False)

    def __post_init__(self):
        check_noise_std(self, self.noise_std, least=1.0)
        if not self.weight > 0:
            raise ValueError(f"DiffPIR needs weight > 0, got weight={self.weight}.")
        if not (self.first_order or isinstance(self.operator, Linear)):
            raise ValueError(
                f"DiffPIR needs a linear operator, got {type(self.operator).__name__}; set first_order=True for others."
            )

    def estimate(self, model: Denoise, x: Images, t: Time, measurement: Measurement) -> Estimate:
        sde, estimate = model.sde, model(x, t)
        damping = self.weight * self.noise_std**2 * (sde.alpha(t) / sde.sigma(t)) ** 2
        if self.first_order or not isinstance(self.operator, Linear):
            error, pullback = jax.vjp(lambda x0: residual(measurement, x0), estimate.x0)
            change = -pullback(error)[0] / expand_like(damping, x)
        else:
            error = residual(measurement, estimate.x0)
            change = self.operator.damped_inverse(error, x.shape[1:], 1.0, damping, self.max_steps)
        return with_x0(sde, x, t, estimate, estimate.x0 + change)
