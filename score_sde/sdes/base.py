"""The SDE: two functions of time, α(t) and σ(t), and everything that follows from them.

Symbols: x_t = α(t) x0 + σ(t) ε with ε ~ N(0, I) and t in (0, t_max], where t = 0 is data and t_max
is noise. λ(t) = log SNR = 2 log(α/σ), strictly decreasing. dx = f(t) x dt + g(t) dw with f = d log
α/dt and g² = −σ² dλ/dt.
"""

import abc
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from score_sde.internal.broadcast import expand_like
from score_sde.internal.per_example import Weight, dimension, sum_of_squares
from score_sde.sdes.standard_normal import standard_normal

Time = Float[Array, "*b"] | float
Scalar = Float[Array, ""] | float  # a field: a number, or an array where it is traced or learned


def require(condition: Any, message: str, sde: "SDE | None" = None) -> None:
    """Raises ValueError with `message`, and with the object that was being built, unless `condition` holds."""
    if not condition:
        raise ValueError(f"{message}, got {sde}." if sde is not None else f"{message}.")


class Gaussian(NamedTuple):
    """The kernel x ↦ N(scale · x, std² I)."""

    scale: Float[Array, "*b"]
    std: Float[Array, "*b"]


class SDE(abc.ABC):
    """dx = f(t) x dt + g(t) dw, so that x_t = α(t) x0 + σ(t) ε.

    An SDE is a `@pytree` dataclass with `log_alpha` and `sigma`. It overrides another method only
    to compute it more accurately. `t_max`, the time of the prior, is a class constant or a field.

    Source: Song et al., arXiv 2011.13456, Sec. 3; written in α, σ as in Kingma et al., arXiv
      2107.00630, App. A.
    """

    t_max: Scalar = 1.0

    @abc.abstractmethod
    def log_alpha(self, t: Time) -> Float[Array, "*b"]:
        """log α(t), with α(0) = 1."""

    @abc.abstractmethod
    def sigma(self, t: Time) -> Float[Array, "*b"]:
        """σ(t), accurate in float32 as t → 0. Use `expm1` where 1 − e^x would cancel."""

    def alpha(self, t: Time) -> Float[Array, "*b"]:
        """α(t) = exp(log α(t))."""
        return jnp.exp(self.log_alpha(t))

    def log_snr(self, t: Time) -> Float[Array, "*b"]:
        """λ(t) = 2 (log α(t) − log σ(t))."""
        return 2 * (self.log_alpha(t) - jnp.log(self.sigma(t)))

    def time_of_log_snr(self, log_snr: Time) -> Float[Array, "*b"]:
        """t with λ(t) = `log_snr`, or the nearest end where λ does not reach `log_snr` on (0, t_max].

        The function is differentiable in `log_snr` and in the fields of the SDE. An SDE whose λ has
        an inverse in closed form overrides this method. The closed form continues beyond the ends.

        Error: one unit in the last place of t, times the conditioning of λ.
        """
        # Bisection over the floating-point numbers: the bits of positive floats, read as integers,
        # have the same order as the floats. So about 32 halvings find every digit, even near t = 0.
        log_snr = jnp.asarray(log_snr)
        integer = jnp.dtype(f"int{8 * log_snr.dtype.itemsize}")
        latest = jnp.full_like(log_snr, self.t_max)

        def bisect(excess, latest):
            def halve(_, ends):
                low, high = ends
                middle = low + (high - low) // 2
                too_early = excess(jax.lax.bitcast_convert_type(middle, log_snr.dtype)) > 0
                return jnp.where(too_early, middle, low), jnp.where(too_early, high, middle)

            high = jax.lax.bitcast_convert_type(latest, integer)
            ends = jax.lax.fori_loop(0, 8 * integer.itemsize, halve, (jnp.zeros_like(high), high))
            return jax.lax.bitcast_convert_type(ends[1], log_snr.dtype)

        # The bisection has no useful derivative. custom_root gives it by the implicit function theorem.
        return jax.lax.custom_root(
            lambda t: self.log_snr(t) - log_snr, latest, bisect, lambda slope, y: y / slope(jnp.ones_like(y))
        )

    def alpha_and_derivative(self, t: Time) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
        """(α(t), dα/dt)."""
        t = jnp.asarray(t)
        return jax.jvp(self.alpha, (t,), (jnp.ones_like(t),))

    def sigma_and_derivative(self, t: Time) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
        """(σ(t), dσ/dt)."""
        t = jnp.asarray(t)
        return jax.jvp(self.sigma, (t,), (jnp.ones_like(t),))

    def drift(self, t: Time) -> Float[Array, "*b"]:
        """f(t) = d log α/dt, the rate in the drift f(t) x."""
        t = jnp.asarray(t)
        return jax.jvp(self.log_alpha, (t,), (jnp.ones_like(t),))[1]

    def diffusion(self, t: Time) -> Float[Array, "*b"]:
        """g(t) = σ √(−dλ/dt) = √(2 σ (dσ/dt − f σ))."""
        sigma, sigma_rate = self.sigma_and_derivative(t)
        return jnp.sqrt(2 * sigma * (sigma_rate - self.drift(t) * sigma))

    def marginal(self, t: Time) -> Gaussian:
        """p(x_t | x0) = N(α(t) x0, σ(t)² I)."""
        return Gaussian(self.alpha(t), self.sigma(t))

    def transition(self, s: Time, t: Time) -> Gaussian:
        """p(x_t | x_s) = N(α_t/α_s x_s, σ_t² − (α_t/α_s)² σ_s²) for s < t.

        s = 0 gives the marginal, where σ(0) = 0.
        """
        # The variance is −σ_t² expm1(λ_t − λ_s), which does not cancel. λ_t − λ_s is computed from
        # differences of log α and of σ. For a short step these keep more digits than the difference
        # of two log-SNRs.
        log_scale = self.log_alpha(t) - self.log_alpha(s)
        sigma_t, sigma_s = self.sigma(t), self.sigma(s)
        log_snr_fall = 2 * (log_scale - jnp.log1p((sigma_t - sigma_s) / sigma_s))
        return Gaussian(jnp.exp(log_scale), sigma_t * jnp.sqrt(-jnp.expm1(log_snr_fall)))

    def noise(self, key: Key[Array, "*b"], shape: tuple[Any, ...], dtype: Any = float) -> Float[Array, "b *shape"]:
        """ε, every draw of noise: ε ~ N(0, I) of `shape` = (b, *shape of one example).

        Training, the prior and all solvers draw their noise here. A family with other noise overrides this method
        alone, and `prior_log_prob` if it is to have likelihoods. The solvers assume that a sum of two draws, scaled, is
        a draw again: this holds for noise within a subspace, such as points with their mean at 0.

        Args:
          key: one key, from which all examples are drawn together, or one key for each example. With a key for each
            example, example i is the same in any batch.
          shape: the shape of the whole batch.
        """
        return standard_normal(key, shape, dtype)

    def prior_std(self) -> Float[Array, ""]:
        """The standard deviation σ(t_max) of the prior N(0, std² I), which replaces p(x at t_max)."""
        return self.sigma(jnp.asarray(self.t_max, jnp.result_type(float)))

    def sample_prior(self, key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
        """x = prior_std ε, with ε from `noise`."""
        return self.prior_std() * self.noise(key, shape)

    def prior_log_prob(self, x: Float[Array, "b *shape"], weight: Weight = None) -> Float[Array, " b"]:
        """log N(x; 0, prior_std² I), in nats per example. With `weight`, only numbers with the weight 1 count."""
        std = self.prior_std().astype(x.dtype)
        size = dimension(x, weight)
        return -0.5 * sum_of_squares(x / std, weight) - size * (jnp.log(std) + 0.5 * jnp.log(2 * jnp.pi))

    def perturb(
        self, key: Key[Array, ""], x0: Float[Array, "b *shape"], t: Time
    ) -> tuple[Float[Array, "b *shape"], Float[Array, "b *shape"]]:
        """(x_t, ε) with x_t = α(t) x0 + σ(t) ε and ε from `noise`."""
        eps = self.noise(key, x0.shape, x0.dtype)
        return expand_like(self.alpha(t), x0) * x0 + expand_like(self.sigma(t), x0) * eps, eps
