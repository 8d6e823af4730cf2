"""RED-diff: regularization by denoising diffusion."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from score_sde.denoising.dynamics import Denoise
from score_sde.guidance.inverse.base import Measurement, measurement_of, residual
from score_sde.guidance.operators import Linear
from score_sde.internal.pytree import pytree
from score_sde.solvers import noise
from score_sde.solvers.base import Batch, Count, Keys, Scalar, Solver, Step


@pytree
class REDDiff(Solver):
    """One step of Adam for μ on ‖y − A(μ)‖² + λ_t (ε̂(α μ + σ ε) − ε)ᵀ μ, with λ_t = weight · (σ/α)^power.

    ε̂ − ε is held fixed in the gradient. power = 0 gives equal weights at all levels, and 1/2 a
    square root. The method finds one likely image. Its draws differ only by their noise, so they are not draws
    from the posterior. The state is μ, and the grid gives the noise levels. It starts at A⁺ y where
    A is linear, else at 0. The operator may be nonlinear, and y may be without noise.

    Args:
      weight: the weight of the model against y.
      learning_rate: the step size of Adam.
      power: the power of σ/α in λ_t.
    Error: p(x0 | y) is replaced by N(μ, 0).
    Raises: ValueError unless weight >= 0 and learning_rate > 0.
    Source: Mardani et al., arXiv 2305.04391, Eq. 9, Prop. 2 and Algorithm 1, with weight 0.25,
      learning rate 0.1 and Adam's β = 0.9, 0.99.
    """

    weight: float = 0.25
    learning_rate: float = 0.1
    power: float = 1.0

    def __post_init__(self):
        if not (self.weight >= 0 and self.learning_rate > 0):
            raise ValueError(f"REDDiff needs weight >= 0 and learning_rate > 0, got {self}.")

    def init(self, x: Batch, num_steps: Count) -> Any:
        """(Adam's state, whether the next step is the first)."""
        return self._adam().init(x), jnp.ones((), bool)

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        sde, (adam, is_first) = denoise.sde, carry
        measurement = measurement_of(self, denoise)
        mean = jnp.where(is_first, _start(measurement, x), x)
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        z = noise.like(key, sde, x)
        surprise = denoise(alpha * mean + sigma * z, t).eps - z

        def misfit(mean):
            return jnp.sum(residual(measurement, mean) ** 2)

        gradient = jax.grad(misfit)(mean) + self.weight * (sigma / alpha) ** self.power * surprise
        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to whole numbers
            updates, adam = self._adam().update(gradient, adam)
        return mean + updates, (adam, jnp.zeros((), bool)), denoise.evaluations(t)

    def _adam(self) -> optax.GradientTransformation:
        return optax.adam(self.learning_rate, b1=0.9, b2=0.99)


def _start(measurement: Measurement, x: Batch) -> Batch:
    operator = measurement.operator
    if not isinstance(operator, Linear):
        return jnp.zeros_like(x)
    return operator.pseudo_inverse(measurement.y.astype(x.dtype), x.shape[1:])
