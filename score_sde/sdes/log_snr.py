"""Variance-preserving SDEs that are given by their log-SNR, as a function or as a table."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.internal.pytree import as_pytree, is_traced, pytree
from score_sde.sdes.base import SDE, Time, require


@pytree
class LogSNR(SDE):
    """α² = sigmoid(λ(t)), σ² = sigmoid(−λ(t)), for a strictly decreasing function λ on (0, 1].

    Where λ(0) is finite, the process does not start with σ(0) = 0, but with σ(0)² = sigmoid(−λ(0)):
    data with a little noise, as for `VE`.

    Args:
      function: t to λ, elementwise and differentiable. For a learned schedule, pass
        `jax.tree_util.Partial(apply, params)`; its parameters are then traced.
    Raises: ValueError unless λ(1) < λ(1/2) < λ(1e-4).
    Source: Kingma et al., arXiv 2107.00630, Sec. 3.2.
    """

    function: Callable[[Float[Array, "*b"]], Float[Array, "*b"]]

    def __post_init__(self):
        object.__setattr__(self, "function", as_pytree(self.function))
        values = [self.function(jnp.asarray(t)) for t in (1e-4, 0.5, 1.0)]
        if not is_traced(values):
            start, middle, end = map(float, values)
            message = f"LogSNR needs a decreasing function of t, got {start}, {middle}, {end} at t = 1e-4, 0.5, 1"
            require(end < middle < start, f"{message}; time runs from data to noise, so negate or reverse it")

    @classmethod
    def from_table(cls, log_snr: Sequence[float]) -> "LogSNR":
        """λ interpolated linearly between the values `log_snr`, at equally spaced times from 0 to 1.

        Args:
          log_snr: decreasing values of λ.
        Raises: ValueError for fewer than two values, or values that are not finite and decreasing.
        """
        table = np.asarray(log_snr, np.float64)
        valid = table.ndim == 1 and table.size >= 2 and np.all(np.isfinite(table)) and np.all(np.diff(table) < 0)
        require(bool(valid), f"LogSNR.from_table needs at least two finite, decreasing values, got {log_snr}")
        return cls(jax.tree_util.Partial(_interpolate, table))

    def log_snr(self, t: Time) -> Float[Array, "*b"]:
        """λ(t), as given. Computed from log α and log σ, it would lose digits at both ends."""
        return self.function(jnp.asarray(t))

    def log_alpha(self, t: Time) -> Float[Array, "*b"]:
        return 0.5 * jax.nn.log_sigmoid(self.log_snr(t))

    def sigma(self, t: Time) -> Float[Array, "*b"]:
        return jnp.exp(0.5 * jax.nn.log_sigmoid(-self.log_snr(t)))


def _interpolate(table: Float[Array, " n"] | Float[np.ndarray, " n"], t: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Linear interpolation of values at equally spaced times from 0 to 1."""
    values = jnp.asarray(table, t.dtype)
    position = t * (len(values) - 1)
    left = jnp.clip(jnp.floor(position), 0, len(values) - 2)
    index = left.astype(jnp.int32)
    return values[index] + (values[index + 1] - values[index]) * (position - left)


@pytree
class DiscreteVP(SDE):
    """log α(t) linear between the knots (0, 0) and (i/N, log α_i), i = 1 … N; σ² = 1 − α².

    Level i of a discrete-time model with N levels (i = 1 … N in the papers) is the time t = i/N.
    Where the last α is 0 (zero terminal SNR), α itself is linear between the last two knots.

    Args:
      log_alphas: log α_i = ½ log ᾱ_i, negative and decreasing; the last may be −∞. The field is the
        logarithm because a float32 ᾱ near 1 has lost the digits of 1 − ᾱ. The constructors below
        compute it in float64.
    Raises: ValueError for any other table.
    Source: Ho et al., arXiv 2006.11239, Sec. 2. Zero terminal SNR: Lin et al., arXiv 2305.08891,
      Alg. 1. Interpolation: Lu et al., arXiv 2206.00927, App. D.2, but with a knot at t = 0; the
      paper extrapolates there, to α > 1.
    """

    log_alphas: Float[Array, " n"] | Float[np.ndarray, " n"]

    def __post_init__(self):
        table = np.asarray(self.log_alphas)
        needs = "DiscreteVP needs a table [n] of α that decreases strictly from below 1 (α = 0 only at its end)"
        require(table.ndim == 1 and table.size > 0, f"{needs}, got the shape {table.shape}")
        wrong = ~(np.diff(table, prepend=0.0) < 0) | (np.isinf(table) & (np.arange(table.size) < table.size - 1))
        first = int(np.argmax(wrong))
        before = f"α = {np.exp(table[first - 1]):.9g}" if first else "α = 1"
        require(
            not wrong.any(),
            f"{needs}, got α = {np.exp(table[first]):.9g} at level {first + 1} of {table.size} after {before}; give "
            "ᾱ to from_alphas_cumprod, β to from_betas, in the order from data to noise",
        )

    @classmethod
    def from_alphas_cumprod(cls, alphas_cumprod: Float[np.ndarray, " n"]) -> "DiscreteVP":
        """The SDE of the table ᾱ_1 > … > ᾱ_N, in (0, 1). ᾱ_N may be 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return cls(0.5 * np.log(np.asarray(alphas_cumprod, np.float64)))

    @classmethod
    def from_betas(cls, betas: Float[np.ndarray, " n"]) -> "DiscreteVP":
        """The SDE of the table ᾱ_i = ∏_{j<=i} (1 − β_j)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return cls(0.5 * np.cumsum(np.log1p(-np.asarray(betas, np.float64))))

    @classmethod
    def ddpm(cls, num_levels: int = 1000, beta_first: float = 1e-4, beta_last: float = 0.02) -> "DiscreteVP":
        """β_i from `beta_first` to `beta_last` in equal steps. Source: arXiv 2006.11239, Sec. 4.

        Args:
          num_levels: N.
          beta_first: β_1.
          beta_last: β_N.
        """
        return cls.from_betas(np.linspace(beta_first, beta_last, num_levels))

    @classmethod
    def iddpm(cls, num_levels: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> "DiscreteVP":
        """β_i = min(1 − ᾱ_i/ᾱ_{i−1}, max_beta) of the cosine schedule. Source: arXiv 2102.09672, Eq. 17.

        Args:
          num_levels: N.
          offset: the offset of the cosine schedule.
          max_beta: the largest β_i.
        """
        angle = 0.5 * np.pi * (np.linspace(0, 1, num_levels + 1) + offset) / (1 + offset)
        return cls.from_betas(np.minimum(1 - (np.cos(angle[1:]) / np.cos(angle[:-1])) ** 2, max_beta))

    def _segment(self, t: Time) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
        """(log α without a final fall to α = 0, the fraction of α that this fall has taken).

        Both are finite. α is exp(first) (1 − second).
        """
        t = jnp.asarray(t)
        table = jnp.asarray(self.log_alphas, t.dtype)
        knots = jnp.concatenate([jnp.zeros(1, t.dtype), table])
        position = t * len(table)
        left = jnp.clip(jnp.floor(position), 0, len(table) - 1)
        index = left.astype(jnp.int32)
        rise, fraction = knots[index + 1] - knots[index], position - left
        to_zero = jnp.isinf(rise)
        return knots[index] + jnp.where(to_zero, 0.0, rise) * fraction, jnp.where(to_zero, fraction, 0.0)

    def log_alpha(self, t: Time) -> Float[Array, "*b"]:
        log_alpha, lost = self._segment(t)
        return log_alpha + jnp.log1p(-lost)

    def alpha(self, t: Time) -> Float[Array, "*b"]:
        """α(t). Computed through log α, the derivative where α = 0 would be 0 · ∞."""
        log_alpha, lost = self._segment(t)
        return jnp.exp(log_alpha) * (1 - lost)

    def sigma(self, t: Time) -> Float[Array, "*b"]:
        log_alpha, lost = self._segment(t)
        return jnp.sqrt(-jnp.expm1(2 * log_alpha) + jnp.exp(2 * log_alpha) * lost * (2 - lost))

    def prior_std(self) -> Float[Array, ""]:
        """1, as in the papers."""
        return jnp.ones(())
