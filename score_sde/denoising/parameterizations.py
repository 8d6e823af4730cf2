"""Parameterizations: what a network's output F means.

F is ε, x0, v, the score, the score times σ, EDM's F or the flow velocity. Each parameterization
decodes both x̂0 and ε̂ directly from F and x_t = α x0 + σ ε. To compute one of them from the other
would divide by a vanishing α or σ, and lose digits at one end of time.

Symbols: α, σ at time t; V = α² σ_data² + σ², the variance of x_t for data of standard deviation
σ_data.
"""

import abc

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.denoising.estimate import Estimate
from score_sde.internal.broadcast import expand_like
from score_sde.internal.pytree import pytree
from score_sde.sdes.base import SDE, Scalar, Time


class NoiseLabel(abc.ABC):
    """c_noise(t): the input that tells the network the noise level."""

    @abc.abstractmethod
    def __call__(self, sde: SDE, t: Time) -> Float[Array, "*b"]:
        """c_noise at time t."""


@pytree
class TimeLabel(NoiseLabel):
    """scale · t / t_max + offset.

    The default, 999 t, is the label in arXiv 2011.13456's code for VP and sub-VP. Networks of N
    discrete levels have the label i − 1 at level i, t = i/N. For them, scale = N and offset = −1
    (arXiv 2006.11239 and 2102.09672).
    """

    scale: Scalar = 999.0
    offset: Scalar = 0.0

    def __call__(self, sde: SDE, t: Time) -> Float[Array, "*b"]:
        return self.scale * jnp.asarray(t) / sde.t_max + self.offset


@pytree
class LogSigmaLabel(NoiseLabel):
    """scale · log(gain · σ/α), with log(σ/α) clipped to ±limit.

    The clipping makes the label finite where α = 0 or σ = 0.

    Raises: ValueError unless gain > 0 and limit > 0.
    Source: arXiv 2206.00364, Table 1: log(σ)/4 for EDM (the default), log(σ/2) for VE.
    """

    scale: Scalar = 0.25
    gain: Scalar = 1.0
    limit: Scalar = 12.0

    def __post_init__(self):
        if not (self.gain > 0 and self.limit > 0):
            raise ValueError(f"LogSigmaLabel needs gain > 0 and limit > 0, got gain={self.gain}, limit={self.limit}.")

    def __call__(self, sde: SDE, t: Time) -> Float[Array, "*b"]:
        log_ratio = jnp.clip(-0.5 * sde.log_snr(t), -self.limit, self.limit)
        return self.scale * (log_ratio + jnp.log(self.gain))


class Parameterization(abc.ABC):
    """The input scaling and noise label of the network, and the meaning of its output.

    Every parameterization has the fields `noise_label` and `sigma_data`. The input is scaled by
    c_in = 1/√V, which gives it unit variance. For σ_data = 1 and a variance-preserving SDE, c_in is
    1, as in the 2021 paper. sigma_data = None sets c_in = 1 for every SDE, as in the 2021 paper's
    networks for VE.

    Args:
      noise_label: the input that tells the network the noise level.
      sigma_data: the standard deviation of the data. None sets c_in = 1.
    Raises: ValueError unless sigma_data > 0.
    """

    noise_label: NoiseLabel
    sigma_data: Scalar | None

    def __post_init__(self):
        if self.sigma_data is not None and not self.sigma_data > 0:
            raise ValueError(
                f"{type(self).__name__} needs sigma_data > 0, the standard deviation of the data, got "
                f"{self.sigma_data}; images in [−1, 1] have about 0.5."
            )

    def inputs(self, sde: SDE, t: Time) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
        """(c_in, c_noise). The inputs of the network are c_in x_t and c_noise."""
        if self.sigma_data is None:
            return jnp.ones_like(jnp.asarray(t)), self.noise_label(sde, t)
        return 1 / jnp.sqrt(_variance(sde, t, self.sigma_data)), self.noise_label(sde, t)

    @abc.abstractmethod
    def decode(self, output: Float[Array, "b *shape"], x: Float[Array, "b *shape"], t: Time, sde: SDE) -> Estimate:
        """(x̂0, ε̂) from the network's output at x_t."""

    @abc.abstractmethod
    def target(
        self, x0: Float[Array, "b *shape"], eps: Float[Array, "b *shape"], t: Time, sde: SDE
    ) -> Float[Array, "b *shape"]:
        """The output for which `decode` returns exactly (x0, ε)."""


def _variance(sde: SDE, t: Time, sigma_data: Scalar) -> Float[Array, "*b"]:
    """V = α² σ_data² + σ²."""
    return (sde.alpha(t) * sigma_data) ** 2 + sde.sigma(t) ** 2


def _alpha_sigma(sde: SDE, t: Time, x: Float[Array, "b *shape"]) -> tuple[Array, Array]:
    """(α, σ), broadcast over `x`."""
    return expand_like(sde.alpha(t), x), expand_like(sde.sigma(t), x)


def _over_alpha(signal: Array, alpha: Array) -> Array:
    """signal/α, and NaN without a gradient where α = 0.

    There x0 is unknown. Without the gradient, a loss on ε̂ stays finite.
    """
    known = alpha > 0
    return jnp.where(known, signal / jnp.where(known, alpha, 1.0), jnp.nan)


@pytree
class Epsilon(Parameterization):
    """F = ε. x̂0 = (x − σ F)/α, NaN where α = 0. Source: Ho et al., arXiv 2006.11239, Eqs. 12 and 15."""

    noise_label: NoiseLabel = TimeLabel()
    sigma_data: Scalar | None = 1.0

    def decode(self, output: Array, x: Array, t: Time, sde: SDE) -> Estimate:
        alpha, sigma = _alpha_sigma(sde, t, x)
        return Estimate(_over_alpha(x - sigma * output, alpha), output)

    def target(self, x0: Array, eps: Array, t: Time, sde: SDE) -> Array:
        return eps


@pytree
class X0(Parameterization):
    """F = x0. ε̂ = (x − α F)/σ. Source: Salimans & Ho, arXiv 2202.00512, Sec. 4."""

    noise_label: NoiseLabel = TimeLabel()
    sigma_data: Scalar | None = 1.0

    def decode(self, output: Array, x: Array, t: Time, sde: SDE) -> Estimate:
        alpha, sigma = _alpha_sigma(sde, t, x)
        return Estimate(output, (x - alpha * output) / sigma)

    def target(self, x0: Array, eps: Array, t: Time, sde: SDE) -> Array:
        return x0


@pytree
class Score(Parameterization):
    """F = ∇ log p_t(x) = −ε/σ. x̂0 = (x + σ² F)/α, NaN where α = 0. Source: Vincent 2011; arXiv 2011.13456, Eq. 7."""

    noise_label: NoiseLabel = TimeLabel()
    sigma_data: Scalar | None = 1.0

    def decode(self, output: Array, x: Array, t: Time, sde: SDE) -> Estimate:
        alpha, sigma = _alpha_sigma(sde, t, x)
        return Estimate(_over_alpha(x + sigma**2 * output, alpha), -sigma * output)

    def target(self, x0: Array, eps: Array, t: Time, sde: SDE) -> Array:
        return -eps / expand_like(sde.sigma(t), eps)


@pytree
class ScaledScore(Parameterization):
    """F = σ ∇ log p_t(x) = −ε. x̂0 = (x + σ F)/α, NaN where α = 0.

    F has unit size at every noise level.

    Source: arXiv 2011.13456's code for VE, which divides the network's output by σ; arXiv
      2206.00364, Table 1, VE.
    """

    noise_label: NoiseLabel = LogSigmaLabel(scale=1.0)
    sigma_data: Scalar | None = None

    def decode(self, output: Array, x: Array, t: Time, sde: SDE) -> Estimate:
        alpha, sigma = _alpha_sigma(sde, t, x)
        return Estimate(_over_alpha(x + sigma * output, alpha), -output)

    def target(self, x0: Array, eps: Array, t: Time, sde: SDE) -> Array:
        return -eps


@pytree
class Velocity(Parameterization):
    """F = v = α ε − σ x0. x̂0 = (α x − σ F)/(α² + σ²), ε̂ = (σ x + α F)/(α² + σ²).

    Source: Salimans & Ho, arXiv 2202.00512, App. D, where α² + σ² = 1.
    """

    noise_label: NoiseLabel = TimeLabel()
    sigma_data: Scalar | None = 1.0

    def decode(self, output: Array, x: Array, t: Time, sde: SDE) -> Estimate:
        alpha, sigma = _alpha_sigma(sde, t, x)
        norm = alpha**2 + sigma**2
        return Estimate((alpha * x - sigma * output) / norm, (sigma * x + alpha * output) / norm)

    def target(self, x0: Array, eps: Array, t: Time, sde: SDE) -> Array:
        alpha, sigma = _alpha_sigma(sde, t, x0)
        return alpha * eps - sigma * x0


@pytree
class FlowVelocity(Parameterization):
    """F = u = ε − x0. x̂0 = (x − σ F)/(α + σ), ε̂ = (x + α F)/(α + σ).

    For `Flow`, u is the velocity dx_t/dt.

    Source: Liu et al., arXiv 2209.03003, Eq. 1, with time from data to noise.
    """

    noise_label: NoiseLabel = TimeLabel()
    sigma_data: Scalar | None = 1.0

    def decode(self, output: Array, x: Array, t: Time, sde: SDE) -> Estimate:
        alpha, sigma = _alpha_sigma(sde, t, x)
        return Estimate((x - sigma * output) / (alpha + sigma), (x + alpha * output) / (alpha + sigma))

    def target(self, x0: Array, eps: Array, t: Time, sde: SDE) -> Array:
        return eps - x0


@pytree
class EDMPreconditioning(Parameterization):
    """x̂0 = (α σ_data² x + σ σ_data √V F)/V, ε̂ = (σ x − α σ_data √V F)/V.

    This is D = c_skip x̄ + c_out F at x̄ = x/α and noise level σ/α, for every SDE. Written so, it
    needs no division by α or σ.

    Source: Karras et al., arXiv 2206.00364, Table 1 and Eq. 7.
    """

    noise_label: NoiseLabel = LogSigmaLabel()
    sigma_data: Scalar = 0.5

    def __post_init__(self):
        if self.sigma_data is None:
            raise ValueError("EDMPreconditioning needs sigma_data > 0, the standard deviation of the data, got None.")
        super().__post_init__()

    def decode(self, output: Array, x: Array, t: Time, sde: SDE) -> Estimate:
        alpha, sigma = _alpha_sigma(sde, t, x)
        variance = expand_like(_variance(sde, t, self.sigma_data), x)
        scaled = self.sigma_data * output / jnp.sqrt(variance)
        x0 = alpha * self.sigma_data**2 * x / variance + sigma * scaled
        return Estimate(x0, sigma * x / variance - alpha * scaled)

    def target(self, x0: Array, eps: Array, t: Time, sde: SDE) -> Array:
        """F = (σ x0/σ_data − α σ_data ε)/√V."""
        alpha, sigma = _alpha_sigma(sde, t, x0)
        variance = expand_like(_variance(sde, t, self.sigma_data), x0)
        return (sigma * x0 / self.sigma_data - alpha * self.sigma_data * eps) / jnp.sqrt(variance)


PARAMETERIZATIONS = {
    "eps": Epsilon,
    "x0": X0,
    "score": Score,
    "scaled_score": ScaledScore,
    "v": Velocity,
    "flow": FlowVelocity,
    "edm": EDMPreconditioning,
}

NOISE_LABELS = {"time": TimeLabel, "log_sigma": LogSigmaLabel}
