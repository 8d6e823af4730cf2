"""Grids: the decreasing times t_0 > t_1 > … > t_n of a solve."""

import abc

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.pytree import pytree, static
from score_sde.sdes.base import SDE


class Grid(abc.ABC):
    """The times of a solve, from `start` (None: the SDE's t_max) to `end`, and then to t = 0 if `to_zero`.

    A grid has `num_steps` steps, so num_steps + 1 times; with `to_zero` the last of these steps goes from `end` to 0.
    Where a solve stops is written here and nowhere else. Members give one function, `between`.
    """

    num_steps: int
    start: float | None
    end: float
    to_zero: bool

    def times(self, sde: SDE) -> Float[Array, " n"]:
        """t_0 = start > … > t_num_steps.

        Raises: ValueError unless num_steps >= 1 (2 with to_zero) and 0 <= end < start <= t_max.
        """
        start = sde.t_max if self.start is None else self.start
        least = 2 if self.to_zero else 1
        if self.num_steps < least:
            raise ValueError(f"This grid needs num_steps >= {least}, got {self}.")
        if not 0 <= self.end < start <= sde.t_max:
            raise ValueError(f"A grid needs 0 <= end < start <= t_max={sde.t_max}, got {start=}, end={self.end}.")
        u = jnp.linspace(0.0, 1.0, self.num_steps + (0 if self.to_zero else 1))
        times = self.between(sde, u, jnp.asarray(start, u.dtype), jnp.asarray(self.end, u.dtype))
        times = times.at[0].set(start).at[-1].set(self.end)
        return jnp.append(times, jnp.zeros((), times.dtype)) if self.to_zero else times

    @abc.abstractmethod
    def between(
        self, sde: SDE, u: Float[Array, " n"], start: Float[Array, ""], end: Float[Array, ""]
    ) -> Float[Array, " n"]:
        """The time at the fraction u of the way from `start` (u = 0) to `end` (u = 1)."""


def _finite_log_snr(sde: SDE, start: Float[Array, ""], end: Float[Array, ""]) -> tuple[Array, Array]:
    """(λ(start), λ(end)), or ValueError where one is infinite."""
    first, last = sde.log_snr(start), sde.log_snr(end)
    if not (jnp.isfinite(first) and jnp.isfinite(last)):
        raise ValueError(
            f"This grid needs a finite log-SNR at both ends, got {first} at t={start} and {last} at t={end}; "
            "set start below t_max, or end above 0 (to_zero=True still goes to 0 in the last step)."
        )
    return first, last


@pytree
class Uniform(Grid):
    """t = start + u (end − start). Source: arXiv 2011.13456, App. G, which ends at 1e-3 (VP) or 1e-5 (VE)."""

    num_steps: int = 1000
    start: float | None = None
    end: float = 1e-3
    to_zero: bool = static(default=False)

    def between(self, sde: SDE, u: Array, start: Array, end: Array) -> Array:
        return start * (1 - u) + end * u


@pytree
class Quadratic(Grid):
    """√t is uniform. Source: DDIM, arXiv 2010.02502, App. D.2."""

    num_steps: int = 50
    start: float | None = None
    end: float = 1e-3
    to_zero: bool = static(default=False)

    def between(self, sde: SDE, u: Array, start: Array, end: Array) -> Array:
        return (jnp.sqrt(start) * (1 - u) + jnp.sqrt(end) * u) ** 2


@pytree
class LogSNRUniform(Grid):
    """λ(t) is uniform. Source: DPM-Solver, arXiv 2206.00927, Sec. 3.3."""

    num_steps: int = 20
    start: float | None = None
    end: float = 1e-3
    to_zero: bool = static(default=False)

    def between(self, sde: SDE, u: Array, start: Array, end: Array) -> Array:
        first, last = _finite_log_snr(sde, start, end)
        return sde.time_of_log_snr(first * (1 - u) + last * u)


@pytree
class EDMRho(Grid):
    """(σ/α)^(1/ρ) is uniform; with to_zero, N steps are EDM's N levels followed by 0.

    Source: Karras et al., arXiv 2206.00364, Eq. 5.
    """

    num_steps: int = 18
    start: float | None = None
    end: float = 0.002
    rho: float = 7.0
    to_zero: bool = static(default=True)

    def between(self, sde: SDE, u: Array, start: Array, end: Array) -> Array:
        first, last = _finite_log_snr(sde, start, end)
        root = jnp.exp(-0.5 * first / self.rho) * (1 - u) + jnp.exp(-0.5 * last / self.rho) * u
        return sde.time_of_log_snr(-2 * self.rho * jnp.log(root))


@pytree
class Given(Grid):
    """The decreasing times of a table, as they are.

    Raises: ValueError unless the table decreases strictly from at most t_max to at least 0.
    """

    table: Float[Array, " n"]

    @property
    def num_steps(self) -> int:
        return len(self.table) - 1

    def times(self, sde: SDE) -> Float[Array, " n"]:
        """The table, checked."""
        table = jnp.asarray(self.table)
        if not (len(table) >= 2 and jnp.all(jnp.diff(table) < 0) and table[0] <= sde.t_max and table[-1] >= 0):
            raise ValueError(f"A grid needs at least two times, decreasing from <= {sde.t_max} to >= 0, got {table}.")
        return table

    def between(self, sde: SDE, u: Array, start: Array, end: Array) -> Array:
        raise NotImplementedError
