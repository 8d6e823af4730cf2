"""LGD: loss-guided diffusion."""

from typing import Any

import jax
import jax.numpy as jnp

from score_sde.denoising.dynamics import Denoise
from score_sde.guidance.inverse.base import gaussian_spread, measurement_of, residual
from score_sde.guidance.inverse.dps import corrected, root
from score_sde.internal.per_example import sum_of_squares
from score_sde.internal.pytree import pytree, static
from score_sde.solvers import noise
from score_sde.solvers.base import Batch, Keys, Scalar, Solver, Step, Wrapper
from score_sde.solvers.sde.ancestral import Ancestral


@pytree
class LGD(Wrapper):
    """x_s = `solver`'s step − scale ∇ √(mean_i ‖y − A(x̂0(x_t) + r z_i)‖²), with `num_samples` fresh z_i ~ N(0, I).

    It is `DPS`, with x0 spread around x̂0 by r² = σ_d² σ²/(α² σ_d² + σ²), the variance of x0 given
    x_t for data N(0, σ_d² I). `data_std` is σ_d. The spread makes the correction smaller where x̂0
    is not certain. The operator may be nonlinear. The samples cost no evaluation.

    Args:
      solver: the solver of the step that is corrected.
      scale: the size of the correction.
      num_samples: the number of samples around x̂0.
      data_std: σ_d, the standard deviation of the data.
    Raises: ValueError unless scale >= 0, data_std > 0 and num_samples >= 1.
    Source: Song et al., ICML 2023 (Loss-Guided Diffusion, LGD-MC), Sec. 4, with the root of the mean
      square as the loss and no annealing, as in InverseBench. InverseBench divides by the root of
      the sum instead of the mean: its `guidance_scale` is √num_samples times `scale`.
    """

    solver: Solver = Ancestral()
    scale: float = 1.0
    num_samples: int = static(default=10)
    data_std: float = 1.0

    def __post_init__(self):
        if not (self.scale >= 0 and self.data_std > 0 and self.num_samples >= 1):
            raise ValueError(f"LGD needs scale >= 0, data_std > 0 and num_samples >= 1, got {self}.")

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        measurement, sde = measurement_of(self, denoise), denoise.sde
        spread = jnp.sqrt(gaussian_spread(sde, t, self.data_std))
        many = jnp.broadcast_to(x[:, None], (x.shape[0], self.num_samples, *x.shape[1:]))
        z = noise.like(noise.fold_in(key, 0), sde, many)

        def loss(x0):
            errors = jax.vmap(lambda each: sum_of_squares(residual(measurement, x0 + spread * each)), 1)(z)
            return root(jnp.mean(errors, axis=0))

        return corrected(self.solver, self.scale, loss, noise.fold_in(key, 1), denoise, x, t, s, carry)
