"""Sliced score matching, which needs no target: only the score and its derivative along random directions."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from score_sde.denoising.dynamics import score
from score_sde.internal.broadcast import expand_like
from score_sde.internal.per_example import per_example
from score_sde.internal.pytree import pytree, static
from score_sde.objectives.base import Batch, Draws, Objective, Predict
from score_sde.objectives.time_samplers import TimeSampler, Uniform
from score_sde.sdes.base import SDE


@pytree
class SlicedScoreMatching(Objective):
    """E σ² (‖s(x_t, t)‖²/2 + vᵀ ∇s(x_t, t) v)/d with v ~ N(0, I): score matching per dimension, up to a constant.

    The minimum is −½ σ² E‖∇ log p_t‖²/d, so the loss can be negative.

    Args:
      time_sampler: the distribution of the noise levels.
      num_projections: the number of directions v per example.
    Raises: ValueError unless num_projections >= 1, or for a time sampler that does not fit the SDE.
    Source: Song et al., arXiv 1905.07088, Eq. 8 (SSM-VR), at every noise level with the weight σ².
    """

    sde: SDE
    time_sampler: TimeSampler = Uniform()
    num_projections: int = static(default=1)

    def __post_init__(self):
        if self.num_projections < 1:
            raise ValueError(f"SlicedScoreMatching needs num_projections >= 1, got {self.num_projections}.")
        self.time_sampler.check(self.sde)

    def draw(self, key: Key[Array, ""], batch: Batch) -> Draws:
        """The times t, their weights, the noise ε, and the directions v `[b, num_projections, *shape]`."""
        time_key, noise_key, projection_key = jax.random.split(key, 3)
        x0 = batch["x"]
        t, time_weight = self.time_sampler(time_key, self.sde, x0.shape[0])
        directions = jax.random.normal(projection_key, (self.num_projections, *x0.shape), x0.dtype)
        eps = self.sde.noise(noise_key, x0.shape, x0.dtype)
        return {"t": t, "time_weight": time_weight, "eps": eps, "directions": jnp.moveaxis(directions, 0, 1)}

    def losses(
        self, denoise: Predict, batch: Batch, draws: Draws
    ) -> tuple[Float[Array, " b"], dict[str, Float[Array, " b"]]]:
        x0, t = batch["x"], draws["t"]
        directions = jnp.moveaxis(draws["directions"], 1, 0)
        sigma = expand_like(self.sde.sigma(t), x0)
        x = expand_like(self.sde.alpha(t), x0) * x0 + sigma * draws["eps"]

        def scaled_score(x):
            return sigma * score(self.sde, denoise(x, t), t)

        value, derivative = jax.linearize(scaled_score, x)
        curvature = jnp.mean(directions * sigma[None] * jax.vmap(derivative)(directions), axis=0)
        loss = per_example(0.5 * value**2 + curvature, batch.get("weight"), "mean")
        return draws["time_weight"] * loss, {"t": t}
