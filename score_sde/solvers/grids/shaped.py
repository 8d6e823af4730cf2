"""Grids with a published shape: resolution shift, sigmoid, arctan, beta, polyexponential, Align Your Steps."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.internal.pytree import pytree, static
from score_sde.sdes.base import SDE
from score_sde.solvers.grids.base import Grid, Spaced

# σ/α at eleven times, highest first. Source: Sabour et al., arXiv 2404.14507, Table 3.
ALIGN_YOUR_STEPS = {
    "sd15": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    "deepfloyd": (160.41, 8.081, 3.315, 1.885, 1.207, 0.785, 0.553, 0.293, 0.186, 0.030, 0.006),
    "svd": (700.00, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}


def shift(t: Array, factor: Array | float) -> Array:
    """s t/(1 + (s − 1) t), with s = `factor`. On `Flow` it multiplies σ/α = t/(1 − t) by s.

    The inverse is the shift by 1/s.
    """
    return factor * t / (1 + (factor - 1) * t)


@pytree
class Shifted(Spaced):
    """t = s τ/(1 + (s − 1) τ) with τ uniform and t in units of t_max: more steps at high noise for s > 1.

    If the steps were chosen for images with m times fewer pixels, take s = √m. Stable Diffusion 3
    has s = 3. `start` and `end` are times of the grid itself, after the shift.

    Args:
      s: the factor of the shift.
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
    """t = start + (end − start) v with v = sigmoid(k (2u − 1)), scaled to run from 0 to 1: short steps at both ends.

    k = 0 is `Uniform`, the limit of k → 0.

    Args:
      k: the steepness of the sigmoid.
    Raises: ValueError unless k >= 0.
    """

    num_steps: int = 50
    start: float | None = None
    end: float = 1e-3
    k: float = 3.0
    to_zero: bool = static(default=False)

    def __post_init__(self):
        if not self.k >= 0:
            raise ValueError(f"Sigmoid needs k >= 0, got k={self.k}; k=0 is Uniform.")

    def between(self, sde: SDE, u: Array, start: Array, end: Array) -> Array:
        # sigmoid(x) = (1 + tanh(x/2))/2, and tanh near 0 keeps the digits that a difference of sigmoids loses.
        half, place = jnp.asarray(self.k, u.dtype) / 2, 2 * u - 1
        flat = half < 1e-9  # here the ratio of tanh equals `place` to the last digit, even in float64
        safe = jnp.where(flat, 1.0, half)
        v = (1 + jnp.where(flat, place, jnp.tanh(safe * place) / jnp.tanh(safe))) / 2
        return start * (1 - v) + end * v


@pytree
class ArctanUniform(Spaced):
    """arctan(σ/α) is uniform. For x0 ~ N(0, 1) this is the optimum of Align Your Steps in closed form.

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

    The log(σ/α) of the table are mapped linearly onto the interval from `start` to `end`. With the
    ends of the table, the grid is the paper's: for "sd15" these are `EDM` with start=14.615,
    end=0.029. Then 10 steps are the table's eleven levels.

    Args:
      table: the name of a published table: "sd15", "sdxl", "deepfloyd" or "svd".
    Raises: ValueError for an unknown table.
    Source: Sabour et al., arXiv 2404.14507, Table 3 (made for VP in latent space; "svd" for EDM's
      σ) and Sec. 4.
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
class PolyExponential(Spaced):
    """λ = λ_end − (1 − u)^ρ (λ_end − λ_start), with λ = log SNR.

    ρ = 1 is `LogSNRUniform`. ρ > 1 has more steps at the data end.

    Args:
      rho: ρ. Larger values place more steps near the data.
    Raises: ValueError unless rho > 0.
    Source: k-diffusion's get_sigmas_polyexponential.
    """

    num_steps: int = 18
    start: float | None = None
    end: float = 0.002
    rho: float = 1.0
    to_zero: bool = static(default=True)
    needs_finite_log_snr: ClassVar[bool] = True

    def __post_init__(self):
        if not self.rho > 0:
            raise ValueError(f"PolyExponential needs rho > 0, got rho={self.rho}.")

    def between(self, sde: SDE, u: Array, start: Array, end: Array) -> Array:
        share = (1 - u) ** self.rho
        return sde.time_of_log_snr(sde.log_snr(start) * share + sde.log_snr(end) * (1 - share))


@pytree
class BetaSpaced(Spaced):
    """σ/α at the quantile 1 − u of Beta(a, b), scaled to run between its values at `start` and `end`.

    With a, b < 1 most steps are at both ends. a = b = 1 is uniform in σ/α.

    Args:
      a: the first parameter of the beta distribution.
      b: the second parameter of the beta distribution.
    Raises: ValueError unless a > 0 and b > 0.
    Source: Lee et al., arXiv 2407.12173, Sec. 3, for timesteps; diffusers' use_beta_sigmas for σ/α,
      as here.
    """

    num_steps: int = 20
    start: float | None = None
    end: float = 1e-3
    a: float = 0.6
    b: float = 0.6
    to_zero: bool = static(default=True)
    needs_finite_log_snr: ClassVar[bool] = True

    def __post_init__(self):
        if not (self.a > 0 and self.b > 0):
            raise ValueError(f"BetaSpaced needs a > 0 and b > 0, got a={self.a}, b={self.b}.")

    def between(self, sde: SDE, u: Array, start: Array, end: Array) -> Array:
        first, last = (jnp.exp(-0.5 * sde.log_snr(t)) for t in (start, end))
        share = _beta_quantile(1 - u, self.a, self.b)
        return sde.time_of_log_snr(-2 * jnp.log(last + share * (first - last)))


def _beta_quantile(probability: Array, a: Array | float, b: Array | float) -> Array:
    """x in [0, 1] with I_x(a, b) = probability, where I is the regularized incomplete beta function."""
    integer = jnp.dtype(f"int{8 * probability.dtype.itemsize}")

    def halve(_, ends):
        low, high = ends
        middle = low + (high - low) // 2
        x = jax.lax.bitcast_convert_type(middle, probability.dtype)
        below = jax.scipy.special.betainc(a, b, x) < probability
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    # Bisection over the floating-point numbers, as in `SDE.time_of_log_snr`: positive floats have
    # the order of their bit patterns, so halving the integers reaches every digit, even near 0.
    high = jax.lax.bitcast_convert_type(jnp.ones_like(probability), integer)
    _, high = jax.lax.fori_loop(0, 8 * integer.itemsize, halve, (jnp.zeros_like(high), high))
    return jax.lax.bitcast_convert_type(high, probability.dtype)


@pytree
class Upward(Grid):
    """The times of `grid` in reverse order, from data to noise, for `score_sde.editing`.

    Use it with solvers that add no noise: their steps also hold for s > t.

    Args:
      grid: the grid to reverse.
    """

    grid: Grid

    def times(self, sde: SDE) -> Float[np.ndarray, " n"]:
        """t_0 < t_1 < … < t_n."""
        return self.grid.times(sde)[::-1].copy()

    def traced_times(self, sde: SDE) -> Float[Array, " n"]:
        return self.grid.traced_times(sde)[::-1]
