"""The usual grids: uniform in time, uniform in log-SNR, EDM's, and given times."""

from collections.abc import Sequence
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.internal.pytree import pytree, static
from score_sde.sdes.base import SDE
from score_sde.solvers.grids.base import Grid, Spaced


@pytree
class Uniform(Spaced):
    """t = start + u (end − start). Source: arXiv 2011.13456, App. C, which ends at 1e-3 (VP) or 1e-5 (VE)."""

    num_steps: int = 1000
    start: float | None = None
    end: float = 1e-3
    to_zero: bool = static(default=False)

    def between(self, sde: SDE, u: Array, start: Array, end: Array) -> Array:
        return start * (1 - u) + end * u


@pytree
class Quadratic(Spaced):
    """√t is uniform. Source: DDIM, arXiv 2010.02502, App. D.2."""

    num_steps: int = 50
    start: float | None = None
    end: float = 1e-3
    to_zero: bool = static(default=False)

    def between(self, sde: SDE, u: Array, start: Array, end: Array) -> Array:
        return (jnp.sqrt(start) * (1 - u) + jnp.sqrt(end) * u) ** 2


@pytree
class LogSNRUniform(Spaced):
    """λ(t) is uniform. Source: DPM-Solver, arXiv 2206.00927, Sec. 3.3."""

    num_steps: int = 20
    start: float | None = None
    end: float = 1e-3
    to_zero: bool = static(default=False)
    needs_finite_log_snr: ClassVar[bool] = True

    def between(self, sde: SDE, u: Array, start: Array, end: Array) -> Array:
        return sde.time_of_log_snr(sde.log_snr(start) * (1 - u) + sde.log_snr(end) * u)


@pytree
class EDMRho(Spaced):
    """(σ/α)^(1/ρ) is uniform. With to_zero, N steps are EDM's N levels followed by 0.

    `start` and `end` are times. For `EDM` they equal σ_max and σ_min.

    Args:
      rho: ρ. Larger values place more steps near the data.
    Raises: ValueError unless rho > 0.
    Source: Karras et al., arXiv 2206.00364, Eq. 5.
    """

    num_steps: int = 18
    start: float | None = None
    end: float = 0.002
    rho: float = 7.0
    to_zero: bool = static(default=True)
    needs_finite_log_snr: ClassVar[bool] = True

    def __post_init__(self):
        if not self.rho > 0:
            raise ValueError(f"EDMRho needs rho > 0, got rho={self.rho}.")

    def between(self, sde: SDE, u: Array, start: Array, end: Array) -> Array:
        first, last = (jnp.exp(-0.5 * sde.log_snr(t) / self.rho) for t in (start, end))
        return sde.time_of_log_snr(-2 * self.rho * jnp.log(first * (1 - u) + last * u))


@pytree
class Given(Grid):
    """The times of a table, unchanged.

    Args:
      table: the times, decreasing.
    Raises: ValueError unless the table decreases strictly from at most t_max to at least 0.
    """

    table: Float[Array, " n"] | Float[np.ndarray, " n"] | Sequence[float]

    def __post_init__(self):
        object.__setattr__(self, "table", np.asarray(self.table, np.float64))

    def times(self, sde: SDE) -> Float[np.ndarray, " n"]:
        """The table, checked."""
        times = np.asarray(self.table, jnp.result_type(float))
        inside = times.ndim == 1 and len(times) >= 2 and times[-1] >= 0 and self.table[0] <= sde.t_max
        if not (inside and np.all(np.diff(times) < 0)):
            raise ValueError(f"Given needs at least two times, decreasing from <= {sde.t_max} to >= 0, got {times}.")
        return times

    def traced_times(self, sde: SDE) -> Float[Array, " n"]:
        return jnp.asarray(self.table, jnp.result_type(float))
