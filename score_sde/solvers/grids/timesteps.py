"""Grids over the levels of a discrete-time model: the integer timesteps of DDPM, DDIM and improved DDPM."""

from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from score_sde.internal.pytree import pytree, static
from score_sde.sdes.base import SDE
from score_sde.solvers.grids.base import Grid


@pytree
class TimestepSpacing(Grid):
    """t = (timestep + 1)/N · t_max for `num_steps` of the timesteps 0 … N − 1, and then 0.

    There are M timesteps from `first` to `last` to choose from. The n chosen timesteps, counted
    from `last`, are for i = 0 … n − 1:

        "linspace"  round(i (M − 1)/(n − 1)): both ends are chosen
        "edm"       M − 1 − round(i (M − 1)/(n − 1)): as "linspace", except for ties
        "leading"   i ⌊M/n⌋: leaves out the noisiest timesteps
        "trailing"  round(M − i M/n) − 1: leaves out the cleanest timesteps

    Timestep i of a model of N levels is level i + 1 of the papers: t = (i + 1)/N on `DiscreteVP`.

    Args:
      num_steps: the number of steps.
      spacing: one of the spacings above.
      num_levels: N, the number of levels of the model.
      first: the noisiest timestep to choose from. None is N − 1.
      last: the cleanest timestep to choose from.
      drop_last: whether to choose n = num_steps + 1 timesteps and leave out the cleanest, as
        diffusers' multistep schedulers do. For "trailing" it changes nothing, because the cleanest
        is left out already.
    Raises: ValueError for an unknown spacing, for more steps than timesteps, or unless 0 <= last <=
      first < num_levels.
    Source: Lin et al., arXiv 2305.08891, Table 2. "linspace" is from arXiv 2102.09672, Sec. 4.
      "edm" is from arXiv 2206.00364, Table 1, iDDPM: on `DiscreteVP.iddpm` with first=991, the
      noisiest timestep whose σ/α is below the paper's σ_max = 81.
    """

    SPACINGS: ClassVar[tuple[str, ...]] = ("linspace", "edm", "leading", "trailing")

    num_steps: int = static(default=50)
    spacing: str = static(default="trailing")
    num_levels: int = static(default=1000)
    first: int | None = static(default=None)
    last: int = static(default=0)
    drop_last: bool = static(default=False)

    def __post_init__(self):
        if self.spacing not in self.SPACINGS:
            raise ValueError(f"TimestepSpacing needs a spacing of {', '.join(self.SPACINGS)}, got {self.spacing!r}.")
        if not 0 <= self.last <= self._first() < self.num_levels:
            raise ValueError(f"TimestepSpacing needs 0 <= last <= first < num_levels, got {self}.")
        most = self._first() - self.last + 1 - self._dropped()
        if not 1 <= self.num_steps <= most:
            raise ValueError(f"TimestepSpacing needs num_steps from 1 to {most}, one for each timestep, got {self}.")

    def times(self, sde: SDE) -> Float[np.ndarray, " n"]:
        """t_0 > … > t_num_steps = 0."""
        levels = np.append(self.timesteps() + 1, 0)
        return np.asarray(levels / self.num_levels * float(sde.t_max), jnp.result_type(float))

    def timesteps(self) -> Int[np.ndarray, " n"]:
        """The timesteps, decreasing."""
        number, size = self.num_steps + self._dropped(), self._first() - self.last + 1
        i = np.arange(number)
        even = (i * (size - 1) / max(number - 1, 1)).round()
        chosen = {
            "linspace": even[::-1],
            "edm": size - 1 - even,
            "leading": i[::-1] * (size // number),
            "trailing": (size - i * (size / number)).round() - 1,
        }[self.spacing]
        return self.last + chosen[: self.num_steps].astype(np.int64)

    def _dropped(self) -> bool:
        return self.drop_last and self.spacing != "trailing"

    def _first(self) -> int:
        return self.num_levels - 1 if self.first is None else self.first
