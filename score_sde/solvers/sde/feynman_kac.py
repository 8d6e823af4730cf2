"""Unbiased samples of a product of densities: weighted and resampled particles (Feynman–Kac correctors)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from score_sde.denoising.dynamics import Denoise, score
from score_sde.denoising.factors import Factored, Factors, weighted_sum
from score_sde.internal.per_example import Weight, sum_of_squares
from score_sde.internal.pytree import pytree, static
from score_sde.sdes.base import SDE
from score_sde.solvers import noise
from score_sde.solvers.base import Batch, Count, Keys, Scalar, Solver, Step
from score_sde.solvers.particles import Resampling, resampled, take


class Particles(NamedTuple):
    """The particles of each image, their log-weights, and the number of steps made."""

    x: Float[Array, "b particles *shape"]
    log_weights: Float[Array, "b particles"]
    made: Int[Array, ""]


@pytree
class FeynmanKac(Solver):
    """Euler–Maruyama for ∏ q_i(x_t)^{a_i}, with weights that correct the bias of the summed score.

    Let S = Σ a_i ∇ log q_i and τ = −t. Each of the particles of an image moves by dx = (−f x + g²
    S) dτ + g dw. Its weight w changes by d log w = [(Σ a_i − 1) ∇·(f x) + ½ g² (‖S‖² − Σ a_i ‖∇ log
    q_i‖²)] dτ. The particles of an image are resampled where their effective number falls below
    `threshold` · `num_particles`. The image is one particle, drawn by its weight. Images do not
    share particles.

    The solver needs guidance with factors: `ClassifierFree` or `Autoguidance` without an interval,
    schedule or rescaling, `Product` or `compose`. Each image costs `num_particles` times the
    evaluations of a step. The particles start from the prior N(0, std²/Σ a_i), so `x_start` is not
    used. The last step to the data should add no noise: wrap the solver in `DenoiseLast`.

    Attributes:
      num_particles: the number of particles of each image.
      threshold: resamples where the effective number of particles is below this fraction of them. 0
        never resamples, and 1 always does.
      resampling: the rule of blackjax that draws the particles that stay.

    Error: as `EulerMaruyama` in the step. In the number of particles the error falls slowly where
      the weights vary much. For 1-D Gaussians at a scale of 3, the mean is 1.313 without particles,
      1.292 with 4, 1.247 with 32 and 1.200 with 512. The exact mean is 1.2.
    Raises: ValueError unless num_particles >= 1 and 0 <= threshold <= 1; in a solve, for a denoiser
      without factors.
    Source: Skreta et al., arXiv 2503.02819, with one formula for guidance, products and annealing;
      resampling by blackjax.
    """

    num_particles: int = static(default=64)
    threshold: float = 0.5
    resampling: Resampling = static(default="systematic")

    needs_finite_drift = True

    def __post_init__(self):
        if not (self.num_particles >= 1 and 0 <= self.threshold <= 1):
            raise ValueError(
                f"FeynmanKac needs num_particles >= 1 and 0 <= threshold <= 1, got num_particles={self.num_particles}, "
                f"threshold={self.threshold}."
            )

    def init(self, x: Batch, num_steps: Count) -> Particles:
        shape = (len(x), self.num_particles)
        return Particles(jnp.zeros((*shape, *x.shape[1:]), x.dtype), jnp.zeros(shape, x.dtype), jnp.int32(0))

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        if not isinstance(denoise, Factored):
            raise ValueError(
                f"FeynmanKac needs a denoiser with factors, got {type(denoise).__name__}; the last rule of the guidance has to "
                "be classifier_free, autoguidance or product, or the denoiser made by compose."
            )
        sde, number = denoise.sde, self.num_particles
        of_particles = _split(noise.fold_in(key, 0), len(x), number)
        many = denoise.repeated(number)
        flat = carry.x.reshape(-1, *x.shape[1:])
        total = sum(denoise.powers)
        flat = jax.lax.cond(carry.made == 0, lambda: _prior(of_particles, sde, total, flat, t), lambda: flat)
        factors = many.factors(flat, t)
        weight = None if denoise.weight is None else jnp.repeat(denoise.weight, number, axis=0)
        moved, rate = self._moved(noise.fold_in(of_particles, 1), sde, factors, flat, t, s, weight)
        log_weights = carry.log_weights + (t - s) * rate.reshape(carry.log_weights.shape)
        particles, log_weights = self._resampled(noise.fold_in(key, 1), moved.reshape(carry.x.shape), log_weights)
        chosen = jax.vmap(jax.random.categorical)(noise.keys_of_images(noise.fold_in(key, 2), len(x)), log_weights)
        image = take(particles, chosen[:, None])[:, 0]
        return image, Particles(particles, log_weights, carry.made + 1), number * denoise.evaluations(t)

    def _moved(
        self, key: Keys, sde: SDE, factors: Factors, x: Batch, t: Scalar, s: Scalar, weight: Weight
    ) -> tuple[Batch, Float[Array, " b"]]:
        """(x_s, d log w/dτ at t, without terms that are equal for all particles)."""
        scores = [score(sde, each, t) for each in factors.estimates]
        total = weighted_sum(factors.powers, scores)
        drift, diffusion, step = sde.drift(t), sde.diffusion(t), t - s
        moved = x + step * (diffusion**2 * total - drift * x)
        moved = moved + diffusion * jnp.sqrt(step) * noise.like(key, sde, x)
        squares = weighted_sum(factors.powers, [sum_of_squares(each, weight) for each in scores])
        # (Σ a_i − 1) ∇·(f x) = (Σ a_i − 1) d f is equal for all particles, so it changes no weight.
        return moved, 0.5 * diffusion**2 * (sum_of_squares(total, weight) - squares)

    def _resampled(
        self, key: Keys, particles: Float[Array, "b p *shape"], log_weights: Float[Array, "b p"]
    ) -> tuple[Float[Array, "b p *shape"], Float[Array, "b p"]]:
        keys = noise.keys_of_images(key, len(log_weights))
        index, log_weights = resampled(keys, log_weights, self.threshold, self.resampling)
        return take(particles, index), log_weights


def _prior(key: Keys, sde: SDE, total: Scalar | float, x: Batch, t: Scalar) -> Batch:
    """The product of priors N(0, std²) whose powers sum to `total`: N(0, std²/total)."""
    std = sde.prior_std() * sde.sigma(t) / sde.sigma(jnp.asarray(sde.t_max, t.dtype))
    return std / jnp.sqrt(total) * noise.like(key, sde, x)


def _split(key: Keys, images: int, particles: int) -> Key[Array, " n"]:
    """One key for each particle. The keys of an image follow each other."""
    if key.ndim == 0:
        return jax.random.split(key, images * particles)
    return jax.vmap(lambda key: jax.random.split(key, particles))(key).reshape(-1)
