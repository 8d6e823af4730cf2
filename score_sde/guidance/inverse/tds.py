"""TDS: the twisted diffusion sampler, sequential Monte Carlo whose answer is exact for many particles."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.denoising.dynamics import Denoise
from score_sde.guidance.inverse.base import Measurement, gaussian_spread, noisy_measurement_of, residual
from score_sde.guidance.tilt import covariance_gain
from score_sde.internal.per_example import dimension, sum_of_squares
from score_sde.internal.pytree import pytree, static
from score_sde.sdes.base import SDE
from score_sde.solvers import noise
from score_sde.solvers.base import Batch, Count, Keys, Scalar, Solver, Step, Times
from score_sde.solvers.particles import Resampling, resampled, take

Particles = Float[Array, "b k *shape"]
Weights = Float[Array, "b k"]


class Twisted(NamedTuple):
    """x̂0 of each particle, log p̃(y | x_t), and its gradient."""

    x0: Particles
    log_prob: Weights
    gradient: Particles


@pytree
class TDS(Solver):
    """Particles [b, k, *shape], k of each image, that move by p(x_s | x_t) with a drift towards y, weighed and resampled.

    p̃(y | x_t) = N(y; A(x̂0), (σ_y² + r²) I) with r² = σ_d² σ²/(α² σ_d² + σ²). A particle makes `Ancestral`'s step from
    x̂0 + σ²/α ∇ log p̃(y | x_t), and a step to σ = 0 from x̂0. Its weight is multiplied by p̃(y | x_s)/p̃(y | x_t) times the
    ratio of the densities of the model's step and of this step at x_s. At the end p̃ is the likelihood itself. An image whose
    effective number of particles, (Σw)²/Σw², is below `threshold` · k is resampled by blackjax's rule `resampling`. All are
    resampled and shuffled at the end: the particles of the result have equal weights, and each alone is a draw.

    Draw with sample(key, denoise, TDS(), grid, (b, k, *shape)) and measurements y [b, *m]. The grid has to go to 0. Every
    step costs k evaluations of the model for each image.

    Args:
      data_std: σ_d, the standard deviation of the data.
      threshold: an image is resampled where its effective number of particles is below this
        fraction of them. 0: only at the end.
      resampling: the rule of blackjax that draws the particles that stay.
    Error: goes to 0 as k → ∞, but for the steps' own error. `data_std` (σ_d) and p̃ change the variance only.
    Raises: ValueError unless data_std > 0 and 0 <= threshold <= 1; for σ_y = 0; for a grid that ends above 0.
    Source: Wu et al., arXiv 2306.17775, Algorithm 1; resampling by blackjax.
    """

    data_std: float = 1.0
    threshold: float = 0.5
    resampling: Resampling = static(default="systematic")

    def __post_init__(self):
        if not (self.data_std > 0 and 0 <= self.threshold <= 1):
            raise ValueError(f"TDS needs data_std > 0 and 0 <= threshold <= 1, got {self}.")

    def check(self, sde: SDE, times: Times) -> None:
        super().check(sde, times)
        if not np.asarray(sde.sigma(jnp.asarray(times[-1]))) == 0:
            raise ValueError(f"TDS needs a grid that goes to 0, as with to_zero=True; got an end at t={times[-1]}.")

    def init(self, x: Batch, num_steps: Count) -> Any:
        """The log weights, but for the twist at x."""
        return jnp.zeros(x.shape[:2], x.dtype)

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        sde, measurement = denoise.sde, noisy_measurement_of(self, denoise)
        now = jax.vmap(lambda each: self._twisted(denoise, measurement, each, t), 1, 1)(x)
        keys = noise.keys_of_images(key, x.shape[0])
        log_weights = carry + now.log_prob
        chosen, log_weights = resampled(noise.fold_in(keys, 0), log_weights, self.threshold, self.resampling)
        x, now = jax.tree.map(lambda each: take(each, chosen), (x, now))

        scale, std = sde.transition(s, t)
        ratio, share = sde.sigma(s) / sde.sigma(t), sde.alpha(s) * (std / sde.sigma(t)) ** 2
        spread = std * ratio
        # The drift in units of the noise. It is 0 in a step without noise, which has one end only.
        drift = jnp.where(spread > 0, share * covariance_gain(sde, x, t) / jnp.where(spread > 0, spread, 1), 0)
        drift = drift * now.gradient
        z = noise.like(noise.fold_in(keys, 1), sde, x)
        moved = share * now.x0 + scale * ratio**2 * x + spread * (drift + z)
        # log N(x_s; m, v) − log N(x_s; m + √v d, v) = −‖d‖²/2 − d·z.
        log_weights = log_weights - now.log_prob - 0.5 * _sum(drift**2) - _sum(drift * z)

        def last():
            final = log_weights + jax.vmap(lambda each: _log_likelihood(measurement, each), 1, 1)(moved)
            chosen, _ = resampled(noise.fold_in(keys, 2), final, 1.0, self.resampling)
            return take(moved, jax.vmap(jax.random.permutation)(noise.fold_in(keys, 3), chosen))

        moved = jax.lax.cond(sde.sigma(s) == 0, last, lambda: moved)
        return moved, log_weights, x.shape[1] * denoise.evaluations(t)

    def _twisted(self, denoise: Denoise, measurement: Measurement, x: Batch, t: Scalar) -> Twisted:
        """Of one particle of every image."""
        variance = measurement.noise_std**2 + gaussian_spread(denoise.sde, t, self.data_std)

        def error_of(x):
            x0 = denoise(x, t).x0
            return residual(measurement, x0), x0

        error, pullback, x0 = jax.vjp(error_of, x, has_aux=True)
        return Twisted(x0, _log_normal(error, variance), pullback(-error / variance)[0])


def _log_normal(error: Float[Array, "b *m"], variance: Scalar | float) -> Float[Array, " b"]:
    """log N(error; 0, variance I)."""
    return -0.5 * (sum_of_squares(error) / variance + dimension(error) * jnp.log(2 * jnp.pi * variance))


def _log_likelihood(measurement: Measurement, x0: Batch) -> Float[Array, " b"]:
    return _log_normal(residual(measurement, x0), jnp.asarray(measurement.noise_std, x0.dtype) ** 2)


def _sum(values: Particles) -> Weights:
    return jnp.sum(values.reshape(*values.shape[:2], -1), axis=2)
