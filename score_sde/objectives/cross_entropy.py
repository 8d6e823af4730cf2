"""The cross-entropy of a classifier of noisy data."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from score_sde.internal.broadcast import expand_like
from score_sde.internal.pytree import pytree
from score_sde.objectives.base import Batch, Draws, Objective
from score_sde.objectives.time_samplers import TimeSampler, Uniform
from score_sde.sdes.base import SDE

Classify = Callable[[Float[Array, "b *shape"], Float[Array, " b"]], Float[Array, "b classes"]]


@pytree
class CrossEntropy(Objective):
    """E_{t, x0, ε} −log p(label | α x0 + σ ε, t), in nats. The label is the condition "label" of the batch.

    Args:
      time_sampler: the distribution of the noise levels.
    Raises: ValueError for a time sampler that does not fit the SDE.
    Source: Dhariwal and Nichol, arXiv 2105.05233, Sec. 4 and App. H.
    """

    sde: SDE
    time_sampler: TimeSampler = Uniform()

    def __post_init__(self):
        self.time_sampler.check(self.sde)

    def draw(self, key: Key[Array, ""], batch: Batch) -> Draws:
        """The times t and their weights, both `[b]`, and the noise ε with the shape of x."""
        time_key, noise_key = jax.random.split(key)
        x0 = batch["x"]
        t, time_weight = self.time_sampler(time_key, self.sde, x0.shape[0])
        return {"t": t, "time_weight": time_weight, "eps": self.sde.noise(noise_key, x0.shape, x0.dtype)}

    def losses(
        self, classify: Classify, batch: Batch, draws: Draws
    ) -> tuple[Float[Array, " b"], dict[str, Float[Array, " b"]]]:
        x0, t = batch["x"], draws["t"]
        x = expand_like(self.sde.alpha(t), x0) * x0 + expand_like(self.sde.sigma(t), x0) * draws["eps"]
        loss, correct = judge(classify(x, t), batch["condition"]["label"])
        return draws["time_weight"] * loss, {"t": t, "accuracy": correct}


def judge(
    log_probs: Float[Array, "b classes"], label: Int[Array, " b"]
) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
    """(−log p(label) in nats, 1 where the most likely class is the label)."""
    loss = -jnp.take_along_axis(log_probs, label[:, None], axis=1)[:, 0]
    return loss, (jnp.argmax(log_probs, axis=1) == label).astype(jnp.float32)
