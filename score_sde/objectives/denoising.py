"""Denoising score matching."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from score_sde.internal.broadcast import expand_like
from score_sde.internal.per_example import Weight, per_example
from score_sde.internal.pytree import pytree, static
from score_sde.objectives.base import Batch, Draws, Objective, Predict
from score_sde.objectives.time_samplers import TimeSampler, Uniform
from score_sde.objectives.weightings import SigmaSquared, Weighting, squared_error
from score_sde.sdes.base import SDE


@pytree
class DenoisingScoreMatching(Objective):
    """E_{t, x0, ε} w(t) ‖error of denoise(α x0 + σ ε, t)‖², where `weighting` defines the error and w.

    With `learned_uncertainty`, the loss of an example is loss/e^u + u, with u(t) from the
    denoiser's `uncertainty` module.

    Args:
      weighting: the error, and its weight at each noise level.
      time_sampler: the distribution of the noise levels.
      learned_uncertainty: whether the loss of each noise level is scaled by a learned variance.
      reduce: "mean" over the dimensions of an example, or "sum" (for likelihood bounds).
    Raises: ValueError for another `reduce`, or a time sampler that does not fit the SDE.
    Source: Vincent 2011; Song et al., arXiv 2011.13456, Eq. 7; uncertainty: arXiv 2312.02696, Eq.
      14.
    """

    sde: SDE
    weighting: Weighting = SigmaSquared()
    time_sampler: TimeSampler = Uniform()
    reduce: str = static(default="mean")
    learned_uncertainty: bool = static(default=False)

    def __post_init__(self):
        if self.reduce not in ("mean", "sum"):
            raise ValueError(f'DenoisingScoreMatching needs reduce "mean" or "sum", got {self.reduce!r}.')
        self.time_sampler.check(self.sde)

    def draw(self, key: Key[Array, ""], batch: Batch) -> Draws:
        """The times t and their weights, both `[b]`, and the noise ε with the shape of x."""
        time_key, noise_key = jax.random.split(key)
        x0 = batch["x"]
        t, time_weight = self.time_sampler(time_key, self.sde, x0.shape[0])
        return {"t": t, "time_weight": time_weight, "eps": self.sde.noise(noise_key, x0.shape, x0.dtype)}

    def losses(
        self, denoise: Predict, batch: Batch, draws: Draws
    ) -> tuple[Float[Array, " b"], dict[str, Float[Array, " b"]]]:
        loss, scalars = self.loss(denoise, batch["x"], draws["eps"], draws["t"], batch.get("weight"))
        return draws["time_weight"] * loss, scalars

    def loss(
        self,
        denoise: Predict,
        x0: Float[Array, "b *shape"],
        eps: Float[Array, "b *shape"],
        t: Float[Array, " b"],
        weight: Weight = None,
    ) -> tuple[Float[Array, " b"], dict[str, Float[Array, " b"]]]:
        """The loss of each example at given times and noise. The scalars are t and the mean squared error of ε̂.

        `weight` weights the numbers of an example, as in `per_example`: it is 0 where x0 is
        padding.
        """
        x = expand_like(self.sde.alpha(t), x0) * x0 + expand_like(self.sde.sigma(t), x0) * eps
        estimate = denoise(x, t)
        error = squared_error(self.sde, estimate, x0, eps, t, self.weighting.error)
        loss = self.weighting(self.sde, t) * per_example(error, weight, self.reduce)
        eps_error = per_example(squared_error(self.sde, estimate, x0, eps, t, "eps"), weight, "mean")
        if self.learned_uncertainty:
            log_variance = denoise.log_variance(t)  # type: ignore[attr-defined]  # a BoundDenoiser has it
            loss = loss * jnp.exp(-log_variance) + log_variance
        return loss, {"t": t, "eps_error": eps_error}
