"""Loss by noise level: the error of a denoiser at each of a list of times, over a whole data set."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from score_sde import parallel
from score_sde.denoising.denoiser import Denoiser, Params
from score_sde.internal.per_example import per_example
from score_sde.objectives.weightings import squared_error
from score_sde.sdes import SDE


class LossByNoiseLevel(NamedTuple):
    """At each time: the mean of ‖ε̂ − ε‖²/d over the data, its standard error, and the number of examples."""

    times: Float[np.ndarray, " k"]
    log_snr: Float[np.ndarray, " k"]
    mean: Float[np.ndarray, " k"]
    standard_error: Float[np.ndarray, " k"]
    num_examples: int


def noise_levels(sde: SDE, number: int, least: float = -8.0, most: float = 8.0) -> Float[np.ndarray, " k"]:
    """Increasing times at which the log-SNR is uniform between `most` and `least`.

    Where the SDE does not reach these values, its own ends are taken.
    """
    ends = jnp.asarray([float(jnp.finfo(jnp.float32).tiny), float(sde.t_max)])
    start, end = (float(value) for value in sde.log_snr(ends))
    log_snr = jnp.linspace(min(most, start), max(least, end), number)
    return np.asarray(jnp.clip(sde.time_of_log_snr(log_snr), *ends))


class NoiseLevelLoss:
    """Measures `LossByNoiseLevel` of parameters on batches: every example once at each time.

    The noise of each (example index, time) is a fixed draw from `key`. So two checkpoints are
    compared on the same noise, and the result does not depend on the batch size.
    """

    def __init__(self, denoiser: Denoiser, times: Float[np.ndarray, " k"]):
        self.denoiser, self.times = denoiser, np.asarray(times, np.float32)
        self._errors = jax.jit(self._errors_of_batch)

    def __call__(self, key: Key[Array, ""], params: Params, batches: Iterable[Mapping[str, Any]]) -> LossByNoiseLevel:
        """The curve over all batches. They need "index", and "is_real" where rows are padding."""
        total = np.zeros((3, len(self.times)))  # rows: count, sum, sum of squares; float64 on the host
        for batch in batches:
            everywhere = jnp.ones(batch["index"].shape, bool)
            errors, is_real = parallel.to_host(
                (self._errors(key, params, dict(batch)), batch.get("is_real", everywhere))
            )
            errors = errors.astype(np.float64)[:, is_real]
            total += np.stack([np.full(len(self.times), is_real.sum()), errors.sum(1), (errors**2).sum(1)])
        count, mean = total[0], total[1] / total[0]
        spread = np.sqrt(np.maximum(total[2] / count - mean**2, 0) / count)
        log_snr = np.asarray(self.denoiser.sde.log_snr(jnp.asarray(self.times)))
        return LossByNoiseLevel(self.times, log_snr, mean, spread, int(count[0]))

    def _errors_of_batch(self, key, params, batch) -> Float[Array, "k b"]:
        x0, sde = batch["x"], self.denoiser.sde
        denoise = self.denoiser.bind(params, batch["condition"])
        keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(batch["index"])

        def errors_at(level_and_time):
            level, t = level_and_time
            noise = sde.noise(jax.vmap(lambda k: jax.random.fold_in(k, level))(keys), x0.shape)
            estimate = denoise(sde.alpha(t) * x0 + sde.sigma(t) * noise, t)
            squares = squared_error(sde, estimate, x0, noise, t, "eps")
            return per_example(squares, batch.get("weight"), "mean")

        return jax.lax.map(errors_at, (jnp.arange(len(self.times)), jnp.asarray(self.times)))
