"""JFPS: Jacobian-free posterior sampling."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.denoising.dynamics import Denoise
from score_sde.denoising.estimate import Estimate
from score_sde.guidance.base import with_x0
from score_sde.guidance.inverse.base import Images, Measurement, NoiseStd, Posterior, check_noise_std, residual
from score_sde.guidance.operators import Linear, conjugate_gradients
from score_sde.internal.broadcast import expand_like
from score_sde.internal.pytree import pytree
from score_sde.sdes.base import Time


@pytree
class JFPS(Posterior):
    """x̂0 + V Aᵀ (σ_y² I + A V Aᵀ)⁻¹ (y − A x̂0), with V = σ_d² σ²/(α² σ_d² + σ²) of each pixel, and ε̂ to match.

    V is the variance of x0 given x_t for data of independent pixels N(μ, σ_d²). `data_std` is σ_d,
    one number or one for each pixel of an image. It needs no product with Jᵀ, so it costs one
    evaluation and no backward pass of the network.

    Args:
      data_std: σ_d, the standard deviation of the data.
      max_steps: the most conjugate gradient steps.
      tolerance: the size of the residual, relative to y − A x̂0, at which they stop.
    Error: exact for data of independent Gaussian pixels with this σ_d, if there are enough steps.
    Raises: ValueError unless noise_std >= 0, data_std > 0 and max_steps >= 1.
    Source: the `JFPSDenoiser` of azula 0.11.
    """

    operator: Linear
    noise_std: NoiseStd = 0.0
    data_std: Float[Array, "*shape"] | float = 1.0
    max_steps: int = 10
    tolerance: float = 1e-6

    def __post_init__(self):
        check_noise_std(self, self.noise_std)
        if not (jnp.all(jnp.asarray(self.data_std) > 0) and self.max_steps >= 1):
            raise ValueError(f"JFPS needs data_std > 0 and max_steps >= 1, got {self.data_std=}, {self.max_steps=}.")

    def estimate(self, model: Denoise, x: Images, t: Time, measurement: Measurement) -> Estimate:
        operator, sde, shape = self.operator, model.sde, x.shape[1:]
        estimate = model(x, t)
        data_std = jnp.asarray(self.data_std, x.dtype)
        of_data = data_std[None] if data_std.ndim else data_std
        # 1/σ_d² + α²/σ² is infinite at σ = 0, where x_t is x0.
        variance = 1 / (1 / of_data**2 + expand_like((sde.alpha(t) / sde.sigma(t)) ** 2, x))

        def covariance_of_y(v):
            return self.noise_std**2 * v + operator(variance * operator.adjoint(v, shape))

        error = residual(measurement, estimate.x0)
        inner = conjugate_gradients(covariance_of_y, error, self.max_steps, self.tolerance)
        return with_x0(sde, x, t, estimate, estimate.x0 + variance * operator.adjoint(inner, shape))
