"""Schedules of a guidance scale over the noise level."""

import abc
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.internal.pytree import pytree


class Schedule(abc.ABC):
    """w(λ) of λ = log(α²/σ²). The scale at λ is 1 + w(λ) (scale − 1), so w = 0 is the conditional model."""

    @abc.abstractmethod
    def __call__(self, log_snr: Float[Array, "*b"]) -> Float[Array, "*b"]:
        """w at this log-SNR, which may be ±∞."""


@pytree
class Piecewise(Schedule):
    """w is linear between the points (log_snr, weight), and constant before the first and after the last point.

    Attributes:
      log_snr: increasing values of log(α²/σ²), from noise to data.
      weight: w at each of them.

    Raises: ValueError unless both have the same length >= 1 and log_snr increases.
    Source: schedules that grow towards the data are from Wang et al., arXiv 2404.13040, there in t,
      here in log-SNR.
    """

    log_snr: Sequence[int | float] = (-6.0, 6.0)
    weight: Sequence[int | float] = (0.0, 1.0)

    def __post_init__(self):
        for name in ("log_snr", "weight"):  # one type, so that 1 and 1.5 are one program
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        fits = len(self.log_snr) == len(self.weight) >= 1
        if not (fits and np.all(np.diff(self.log_snr) > 0)):
            raise ValueError(
                "Piecewise needs log_snr that increases and one weight for each, got "
                f"log_snr={self.log_snr}, weight={self.weight}."
            )

    def __call__(self, log_snr: Float[Array, "*b"]) -> Float[Array, "*b"]:
        points, weights = (jnp.asarray(values, log_snr.dtype) for values in (self.log_snr, self.weight))
        return jnp.interp(jnp.clip(log_snr, points[0], points[-1]), points, weights)


SCHEDULES: dict[str, type[Schedule]] = {"piecewise": Piecewise}
