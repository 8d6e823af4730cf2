"""Time samplers: the distribution of the noise levels in the loss.

A sampler returns t and a weight for each example. Some samplers only lower the variance of an
expectation over uniform t (stratified, importance). Their weight is p_uniform(t)/p(t). Other
samplers define the distribution of t (log-normal and others). Their weight is 1.
"""

import abc

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from score_sde.internal.pytree import pytree, static
from score_sde.sdes.base import SDE

Times = tuple[Float[Array, " n"], Float[Array, " n"]]


class TimeSampler(abc.ABC):
    """(key, sde, number) -> (t [number], weight [number])."""

    def check(self, sde: SDE) -> None:  # noqa: B027  most samplers fit every SDE
        """Raises ValueError where the sampler's fields do not fit the SDE."""

    @abc.abstractmethod
    def __call__(self, key: Key[Array, ""], sde: SDE, number: int) -> Times:
        """Draws `number` times in (0, t_max]."""


def _end(sampler, sde: SDE):
    """The sampler's t_max, or the SDE's t_max where it is None."""
    return sde.t_max if sampler.t_max is None else sampler.t_max


def _check_interval(sampler, sde: SDE) -> None:
    """Raises ValueError unless 0 < t_min < t_max <= sde.t_max."""
    end = _end(sampler, sde)
    if not 0 < sampler.t_min < end <= sde.t_max:
        raise ValueError(f"{sampler} needs 0 < t_min < t_max <= {sde.t_max}, the t_max of {sde}.")


@pytree
class Uniform(TimeSampler):
    """t ~ U(t_min, t_max). Source: arXiv 2011.13456, App. C, with t_min = 1e-5; None is the SDE's t_max."""

    t_min: float = 1e-5
    t_max: float | None = None

    def check(self, sde: SDE) -> None:
        _check_interval(self, sde)

    def __call__(self, key: Key[Array, ""], sde: SDE, number: int) -> Times:
        t_max = _end(self, sde)
        u = jax.random.uniform(key, (number,))
        return self.t_min + (t_max - self.t_min) * u, jnp.ones(number)


@pytree
class Stratified(TimeSampler):
    """t ~ U(t_min, t_max), with one time in each of `number` equal parts: u_i = (u + i/number) mod 1.

    Source: Kingma et al., arXiv 2107.00630, App. I.1 (low-discrepancy sampler).
    """

    t_min: float = 1e-5
    t_max: float | None = None

    def check(self, sde: SDE) -> None:
        _check_interval(self, sde)

    def __call__(self, key: Key[Array, ""], sde: SDE, number: int) -> Times:
        t_max = _end(self, sde)
        u = jnp.mod(jax.random.uniform(key) + jnp.arange(number, dtype=jnp.float32) / number, 1.0)
        return self.t_min + (t_max - self.t_min) * u, jnp.ones(number)


@pytree
class LikelihoodImportance(TimeSampler):
    """p(t) ∝ g²/σ² = −dλ/dt on (t_min, t_max), so λ is uniform. The weight is p_uniform(t)/p(t).

    With the `Likelihood` weighting, the factor g²/σ² then no longer makes the loss vary with t.

    Source: Song et al., arXiv 2101.09258, Sec. 4.1; Kingma et al., arXiv 2107.00630, Eq. 18, for
      p(t) in closed form.
    """

    t_min: float = 1e-5
    t_max: float | None = None

    def check(self, sde: SDE) -> None:
        _check_interval(self, sde)
        end = _end(self, sde)
        if not jnp.isfinite(sde.log_snr(jnp.asarray(end))):
            raise ValueError(
                f"LikelihoodImportance needs a finite log-SNR at t_max, got {end} for {sde}; set t_max=0.999."
            )

    def __call__(self, key: Key[Array, ""], sde: SDE, number: int) -> Times:
        t_max = _end(self, sde)
        first, last = sde.log_snr(jnp.asarray(self.t_min)), sde.log_snr(jnp.asarray(t_max))
        t = sde.time_of_log_snr(first + (last - first) * jax.random.uniform(key, (number,)))
        t = jnp.clip(t, self.t_min, t_max)
        rate = (sde.diffusion(t) / sde.sigma(t)) ** 2
        return t, (first - last) / ((t_max - self.t_min) * rate)


@pytree
class LogNormal(TimeSampler):
    """log(σ/α) ~ N(mean, std²), clipped at the ends of (0, t_max] where the SDE does not reach it.

    Source: Karras et al., arXiv 2206.00364, Table 1 (P_mean, P_std).
    """

    mean: float = -1.2
    std: float = 1.2

    def check(self, sde: SDE) -> None:
        if not self.std > 0:
            raise ValueError(f"LogNormal needs std > 0, got {self}.")

    def __call__(self, key: Key[Array, ""], sde: SDE, number: int) -> Times:
        log_ratio = self.mean + self.std * jax.random.normal(key, (number,))
        t = sde.time_of_log_snr(-2 * log_ratio)
        return jnp.clip(t, jnp.finfo(t.dtype).tiny, sde.t_max), jnp.ones(number)


@pytree
class LogitNormal(TimeSampler):
    """logit(t/t_max) ~ N(mean, std²). Source: Esser et al., arXiv 2403.03206, Eq. 19."""

    mean: float = 0.0
    std: float = 1.0

    def check(self, sde: SDE) -> None:
        if not self.std > 0:
            raise ValueError(f"LogitNormal needs std > 0, got {self}.")

    def __call__(self, key: Key[Array, ""], sde: SDE, number: int) -> Times:
        u = jax.nn.sigmoid(self.mean + self.std * jax.random.normal(key, (number,)))
        return sde.t_max * u, jnp.ones(number)


@pytree
class Discrete(TimeSampler):
    """t uniform on `num_levels` equally spaced times, from `t_min` (None: t_max/num_levels) to t_max.

    With `DiscreteVP` of the same number of levels, these are DDPM's i = 1 … N. t_min = 0 on `VE`
    gives the levels of NCSN.

    Source: Ho et al., arXiv 2006.11239, Alg. 1.
    """

    num_levels: int = static(default=1000)
    t_min: float | None = None

    def check(self, sde: SDE) -> None:
        if self.num_levels < 2:
            raise ValueError(f"Discrete needs num_levels >= 2, got {self}.")

    def times(self, sde: SDE) -> Float[Array, " n"]:
        """The times, increasing."""
        start = sde.t_max / self.num_levels if self.t_min is None else self.t_min
        u = jnp.arange(self.num_levels, dtype=jnp.float32) / (self.num_levels - 1)
        return start * (1 - u) + sde.t_max * u

    def __call__(self, key: Key[Array, ""], sde: SDE, number: int) -> Times:
        level = jax.random.randint(key, (number,), 0, self.num_levels)
        return self.times(sde)[level], jnp.ones(number)


TIME_SAMPLERS = {
    "uniform": Uniform,
    "stratified": Stratified,
    "likelihood_importance": LikelihoodImportance,
    "log_normal": LogNormal,
    "logit_normal": LogitNormal,
    "discrete": Discrete,
}
