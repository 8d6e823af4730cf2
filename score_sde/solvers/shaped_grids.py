"""Grids with a published shape: the resolution shift, sigmoid, arctan, and tables of Align Your Steps."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.pytree import pytree, static
from score_sde.sdes.base import SDE
from score_sde.solvers.grids import Grid, Spaced

# σ/α at eleven times, highest first. Source: Sabour et al., arXiv 2404.14507, Table 3.
ALIGN_YOUR_STEPS = {
    "sd15": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    "deepfloyd": (160.41, 8.081, 3.315, 1.885, 1.207, 0.785, 0.553, 0.293, 0.186, 0.030, 0.006),
    "svd": (700.00, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}


def shift(t: Array, factor: Array | float) -> Array:
    """s t/(1 + (s − 1) t): on `Flow` it multiplies σ/α = t/(1 − t) by s. Its inverse has 1/s."""
    return factor * t / (1 + (factor - 1) * t)


@pytree
class Shifted(Spaced):
    """t = s τ/(1 + (s − 1) τ) with τ uniform and t in units of t_max: more steps at high noise for s > 1.

    For m times as many pixels as the steps were chosen for, s = √m; Stable Diffusion 3 has s = 3. `start` and `end` are the
    grid's own times, after the shift.

    Raises: ValueError unless s > 0.
    Source: Esser et al., arXiv 2403.03206, Eq. 23.
    """

    num_steps: int = 28
    start: float | None = None
    end: float = 1e-3
    s: float = 3.0
    to_zero: bool = static(default=True)

    def __post_init__(self):
        if not self.s > 0:
            raise ValueError(f"Shifted needs s > 0, got s={self.s}.")

    def between(self, sde: SDE, u: Array, start: Array, end: Array) -> Array:
        first, last = (shift(t / sde.t_max, 1 / self.s) for t in (start, end))
        return sde.t_max * shift(first * (1 - u) + last * u, self.s)


@pytree
class Sigmoid(Spaced):
    """t = start + (end − start) v with v = sigmoid(k (2u − 1)), scaled to end at 0 and 1: short steps at both ends.

    k = 0 is `Uniform`, with a limit of k → 0 in place of 0/0.

    Raises: ValueError unless k > 0.
    """

    num_steps: int = 50
    start: float | None = None
    end: float = 1e-3
    k: float = 3.0
    to_zero: bool = static(default=False)

    def __post_init__(self):
        if not self.k > 0:
            raise ValueError(f"Sigmoid needs k > 0, got k={self.k}.")

    def between(self, sde: SDE, u: Array, start: Array, end: Array) -> Array:
        low, high = (jax.nn.sigmoid(jnp.asarray(k, u.dtype)) for k in (-self.k, self.k))
        v = (jax.nn.sigmoid(self.k * (2 * u - 1)) - low) / (high - low)
        return start * (1 - v) + end * v


@pytree
class ArctanUniform(Spaced):
    """arctan(σ/α) is uniform: for x0 ~ N(0, 1) the optimum of Align Your Steps in closed form.

    Source: Sabour et al., arXiv 2404.14507, Theorem 3.1 with c = 1.
    """

    num_steps: int = 20
    start: float | None = None
    end: float = 1e-3
    to_zero: bool = static(default=False)

    def between(self, sde: SDE, u: Array, start: Array, end: Array) -> Array:
        first, last = (jnp.arctan2(sde.sigma(t), sde.alpha(t)) for t in (start, end))
        return sde.time_of_log_snr(-2 * jnp.log(jnp.tan(first * (1 - u) + last * u)))


@pytree
class AlignYourSteps(Spaced):
    """log(σ/α) runs through a published table from `start` to `end`, linearly between its entries.

    The table's log(σ/α) is carried linearly onto the interval [start, end]: with those of the table, as `EDM` at
    start=14.615, end=0.029 for "sd15", it is the paper's, and 10 steps are its eleven levels.

    Raises: ValueError for an unknown table.
    Source: Sabour et al., arXiv 2404.14507, Table 3 (made for VP in latent space; "svd" for EDM's σ) and Sec. 4.
    """

    num_steps: int = 10
    start: float | None = None
    end: float = 1e-3
    table: str = static(default="sd15")
    to_zero: bool = static(default=False)
    needs_finite_log_snr: ClassVar[bool] = True

    def __post_init__(self):
        if self.table not in ALIGN_YOUR_STEPS:
            raise ValueError(f"AlignYourSteps needs a table of {', '.join(ALIGN_YOUR_STEPS)}, got {self.table!r}.")

    def between(self, sde: SDE, u: Array, start: Array, end: Array) -> Array:
        logs = np.log(ALIGN_YOUR_STEPS[self.table])
        fractions = jnp.asarray((logs - logs[0]) / (logs[-1] - logs[0]), u.dtype)
        v = jnp.interp(u, jnp.linspace(0, 1, len(logs), dtype=u.dtype), fractions)
        return sde.time_of_log_snr(sde.log_snr(start) * (1 - v) + sde.log_snr(end) * v)


@pytree
class Upward(Grid):
    """The times of `grid` from the last to the first, from data to noise, for `score_sde.inversion`.

    For solvers that add no noise: their steps hold for s > t too.
    """

    grid: Grid

    def times(self, sde: SDE) -> Float[np.ndarray, " n"]:
        """t_0 < t_1 < … < t_n."""
        return self.grid.times(sde)[::-1].copy()
