"""The restart sampler: part of the way is undone with fresh noise and solved again, several times."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from score_sde.dynamics import Denoise
from score_sde.pytree import pytree
from score_sde.sdes.base import SDE
from score_sde.solvers import noise
from score_sde.solvers.base import Batch, Count, Keys, Scalar, Solver, Step, Times, Wrapper, for_each_image
from score_sde.solvers.grids import Grid, Spaced


@pytree
class WithRestarts(Grid):
    """The times of `grid`, and where it first comes to `low` or below, `repeats` times up to `high` and down again.

    The way down has `inner.num_steps` steps spaced as `inner` (any grid of the catalogue but `Given`; its start and end
    are those of the restart), and ends at the time of `grid` where it began, so that a table with several intervals is
    WithRestarts(WithRestarts(…)). The solver has to be a `Restart`.

    Raises: ValueError unless 0 < low < high <= t_max, repeats >= 0 and `grid` passes `low` before 0.
    Source: Xu et al., arXiv 2306.14878, Algorithm 1: low, high, repeats, inner.num_steps = t_min, t_max, K, N_Restart.
    """

    grid: Grid
    inner: Spaced
    low: float = 0.06
    high: float = 0.3
    repeats: int = 1

    def times(self, sde: SDE) -> Float[np.ndarray, " n"]:
        """The times, not decreasing at the restarts."""
        times = self.grid.times(sde)
        below = np.flatnonzero((times <= self.low) & (times > 0))
        if not (0 < self.low < self.high <= sde.t_max and self.repeats >= 0 and below.size):
            raise ValueError(
                f"WithRestarts needs 0 < low < high <= t_max={sde.t_max}, repeats >= 0 and a grid with a time in "
                f"(0, low], got low={self.low}, high={self.high}, repeats={self.repeats}, times {times}."
            )
        place = below[0]
        inner: Any = self.inner
        down = dataclasses.replace(inner, start=self.high, end=float(times[place]), to_zero=False).times(sde)
        down[-1] = times[place]
        return np.concatenate([times[: place + 1], *[down] * self.repeats, times[place + 1 :]])


@pytree
class Restart(Wrapper):
    """`solver`'s steps; where the grid goes up, x_s = α_{s|t} x_t + S_noise σ_{s|t} z, which costs no evaluation.

    After a step up a solver that remembers steps starts afresh. The knob of the noise is in the grid, `WithRestarts`: the
    interval and how often it is repeated. S_noise is 1.003 in the paper's ImageNet runs.

    Raises: ValueError unless S_noise >= 0. Source: Xu et al., arXiv 2306.14878, Algorithm 1.
    """

    solver: Solver
    S_noise: float = 1.0

    def __post_init__(self):
        if not self.S_noise >= 0:
            raise ValueError(f"Restart needs S_noise >= 0, got S_noise={self.S_noise}.")

    def check(self, sde: SDE, times: Times) -> None:
        """As `solver` does, which meets all of these times on its way down."""
        self.solver.check(sde, np.unique(times)[::-1])

    def init(self, x: Batch, num_steps: Count) -> Any:
        return super().init(x, num_steps), jnp.asarray(num_steps, jnp.int32)

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        sde, (inner, num_steps) = denoise.sde, carry

        def up():
            scale, std = sde.transition(t, s)
            fresh = self.solver.init(x, num_steps)
            fresh = jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), fresh, inner)
            return scale * x + noise.scaled(key, x, self.S_noise * std), fresh, jnp.zeros(x.shape[:1], jnp.int32)

        def down():
            moved, after, evaluations = self.solver.step(key, denoise, x, t, s, inner)
            return moved, after, for_each_image(evaluations, x)

        x, inner, evaluations = jax.lax.cond(s > t, up, down)
        return x, (inner, num_steps), evaluations
