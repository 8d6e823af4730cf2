"""Grids: the decreasing times t_0 > t_1 > … > t_n of a solve."""

import abc
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.sdes.base import SDE

MAX_STEPS = 1024  # grids up to this length share one compiled program; the length of longer ones is a power of two


def padded_steps(num_steps: int) -> int:
    """The number of steps for which the program of a solve with `num_steps` steps is compiled."""
    return max(MAX_STEPS, 1 << (num_steps - 1).bit_length())


class Grid(abc.ABC):
    """The times of a solve. A grid alone decides where a solve starts and stops."""

    @abc.abstractmethod
    def times(self, sde: SDE) -> Float[np.ndarray, " n"]:
        """t_0 > … > t_n, in JAX's default precision.

        Raises: ValueError where the fields do not fit `sde`.
        """

    def traced_times(self, sde: SDE) -> Float[Array, " n"]:
        """The times for an SDE whose numbers are not known yet, as within `jit`. They are not checked.

        Raises: TypeError for a grid that must know the numbers.
        """
        raise TypeError(
            f"{type(self).__name__} needs to know the numbers of {type(sde).__name__}, which are traced here. Let the "
            "transformed function close over the SDE, instead of taking it (or the denoiser) as an argument."
        )


class Spaced(Grid):
    """Times from `start` to `end` that are evenly spaced in some variable, then 0 if `to_zero`.

    A subclass has these four fields and one method, `between`.

    Args:
      num_steps: the number of steps; the grid has num_steps + 1 times. With `to_zero`, the last of
        these steps goes from `end` to 0.
      start: the first time. None is the SDE's t_max.
      end: the last time, or the last time before 0 with `to_zero`.
      to_zero: whether the grid ends with 0.
    """

    num_steps: int
    start: float | None
    end: float
    to_zero: bool
    needs_finite_log_snr: ClassVar[bool] = False  # at start and end

    def times(self, sde: SDE) -> Float[np.ndarray, " n"]:
        """t_0 = start > … > t_num_steps.

        Raises: ValueError unless num_steps >= 1 (2 with to_zero) and 0 <= end < start <= t_max (0 < end with to_zero),
          or for more steps than there are distinct times.
        """
        start = sde.t_max if self.start is None else self.start
        _check_fields(self, sde, start)
        spaced = self._spaced()
        times = np.array(_between(self, sde, self._fractions(), float(start), float(self.end)))[:spaced]
        times[0], times[-1] = start, self.end if spaced > 1 else start
        if self.to_zero:
            times = np.append(times, np.zeros_like(times[:1]))
        if not np.all(np.diff(times) < 0):
            raise ValueError(
                f"This grid needs fewer steps, because some of its times are equal in {times.dtype}, got {self}."
            )
        return times

    def traced_times(self, sde: SDE) -> Float[Array, " n"]:
        start, spaced = sde.t_max if self.start is None else self.start, self._spaced()
        times = _between(self, sde, self._fractions(), start, self.end)[:spaced]
        times = times.at[0].set(start).at[-1].set(self.end if spaced > 1 else start)
        return jnp.pad(times, (0, 1 if self.to_zero else 0))

    def _spaced(self) -> int:
        """The number of evenly spaced times, without the 0 of `to_zero`."""
        return self.num_steps + (0 if self.to_zero else 1)

    def _fractions(self) -> Float[np.ndarray, " n"]:
        """0 … 1 for the evenly spaced times, then 1 up to a length that many numbers of steps share."""
        u, spaced = np.ones(padded_steps(self.num_steps) + 1), self._spaced()
        u[:spaced] = np.linspace(0.0, 1.0, spaced) if spaced > 1 else 0.0
        return u

    @abc.abstractmethod
    def between(
        self, sde: SDE, u: Float[Array, " n"], start: Float[Array, ""], end: Float[Array, ""]
    ) -> Float[Array, " n"]:
        """The time at the fraction u of the way from `start` (u = 0) to `end` (u = 1)."""


def _between_traced(grid, sde, u, start, end):
    return grid.between(sde, u, start, end)


_between = jax.jit(_between_traced)


def _check_fields(grid, sde, start):
    least = 2 if grid.to_zero else 1
    if grid.num_steps < least:
        raise ValueError(f"This grid needs num_steps >= {least}, got {grid}.")
    end = grid.end
    if not (0 <= end < start <= sde.t_max and (end > 0 or not grid.to_zero)):
        above = "0 < end" if grid.to_zero else "0 <= end"
        raise ValueError(f"This grid needs {above} < start <= t_max={sde.t_max}, got start={start}, end={end}.")
    if grid.needs_finite_log_snr:
        for t in (start, end):
            if not np.isfinite(sde.log_snr(t)):
                raise ValueError(
                    f"{type(grid).__name__} needs a finite log-SNR at both ends, got {sde.log_snr(t)} at t={t}; set start "
                    "below t_max, and end above 0 (with to_zero=True the last step still goes to 0)."
                )
