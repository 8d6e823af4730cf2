"""The parts that methods for inverse problems share: the measurement, and denoisers that carry it.

Symbols: y = A(x0) + σ_y n with n ~ N(0, I) is the measurement, x_t = α x0 + σ ε, x̂0 = E[x0 | x_t]
of the model, and J = ∂x̂0/∂x_t. By Tweedie's formula Cov[x0 | x_t] = (σ²/α) J, which is symmetric
for an exact denoiser.

There are two kinds of method. A `Posterior` is guidance: it changes the estimate towards E[x0 |
x_t, y], and works with any solver. The other methods define the step from x_t to x_s, which depends
on s. So they are solvers. They find the measurement in a denoiser that `Measured` made.
"""

import abc
from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.denoising.dynamics import Denoise, Evaluations
from score_sde.denoising.estimate import Estimate
from score_sde.denoising.function_denoiser import as_denoise
from score_sde.guidance.base import Guidance, Observation
from score_sde.guidance.operators import Operator
from score_sde.internal.broadcast import expand_like
from score_sde.internal.pytree import pytree
from score_sde.sdes.base import SDE, Time

Images = Float[Array, "b *shape"]
NoiseStd = Float[Array, ""] | float


class Measurement(NamedTuple):
    """y = operator(x0) + noise_std n, of each image."""

    operator: Operator
    y: Float[Array, "b *m"]
    noise_std: NoiseStd


def measurement_from(rule: Guidance, operator: Operator, noise_std: NoiseStd, observation: Observation) -> Measurement:
    """The measurement in observation["y"], for a rule that has `operator` and `noise_std`.

    Raises: ValueError without "y".
    """
    if "y" not in observation:
        name = type(rule).__name__
        raise ValueError(
            f'{name} needs the measurement as observation["y"], got the names {sorted(observation)}; call '
            f'guide(denoise, ({name}(…),), {{"y": y}}).'
        )
    return Measurement(operator, jnp.asarray(observation["y"]), noise_std)


def residual(measurement: Measurement, x0: Images) -> Float[Array, "b *m"]:
    """y − A(x0).

    Raises: ValueError where y is not a measurement of images of this shape.
    """
    operator, y, _ = measurement
    expected = (x0.shape[0], *operator.measured_shape(x0.shape[1:]))
    if y.shape != expected:
        raise ValueError(
            f"{type(operator).__name__} measures images {x0.shape} as {expected}, got observation y of shape {y.shape}; "
            "y needs one row for each image."
        )
    return y.astype(x0.dtype) - operator(x0)


def check_noise_std(rule: object, noise_std: NoiseStd, least: float = 0.0) -> None:
    """Raises ValueError unless noise_std >= 0 (or > 0, where `least` is above 0)."""
    if not (noise_std > 0 or (noise_std == 0 and not least)):
        bound = "noise_std > 0" if least else "noise_std >= 0"
        raise ValueError(f"{type(rule).__name__} needs {bound}, got noise_std={noise_std}.")


class Posterior(Guidance):
    """A rule that changes the model's estimate of (x0, ε) given x_t towards the estimate given x_t and y."""

    operator: Operator
    noise_std: NoiseStd

    @abc.abstractmethod
    def estimate(self, model: Denoise, x: Images, t: Time, measurement: Measurement) -> Estimate:
        """(x̂0, ε̂) given x_t and y, by one evaluation of the model and of its transposed derivative."""

    def wrap(self, model: Denoise, observation: Observation) -> Denoise:
        measurement = measurement_from(self, self.operator, self.noise_std, observation)
        return PosteriorDenoise(as_denoise(model), measurement, self)


@pytree
class PosteriorDenoise(Denoise):
    """`model`, with each estimate replaced by `rule`."""

    model: Denoise
    measurement: Measurement
    rule: Posterior

    @property
    def sde(self) -> SDE:
        return self.model.sde

    def evaluations(self, t: Time) -> Evaluations:
        """The evaluations of the model. Products with Jᵀ are not counted; each takes about as long as two evaluations."""
        return self.model.evaluations(t)

    def __call__(self, x: Images, t: Time) -> Estimate:
        return self.rule.estimate(self.model, x, t, self.measurement)


@runtime_checkable
class MeasuredDenoise(Denoise, Protocol):
    """A denoiser that carries a measurement, for solvers that use it."""

    measurement: Measurement


@pytree
class Measured(Guidance):
    """The model's own estimates, together with the measurement. It must be the last rule of a list.

    The solvers for inverse problems (`DPS`, `DDRM`, `Replacement` and others) need it.

    Raises: ValueError unless noise_std >= 0.
    """

    operator: Operator
    noise_std: NoiseStd = 0.0

    def __post_init__(self):
        check_noise_std(self, self.noise_std)

    def wrap(self, model: Denoise, observation: Observation) -> Denoise:
        measurement = measurement_from(self, self.operator, self.noise_std, observation)
        return WithMeasurement(as_denoise(model), measurement)


@pytree
class WithMeasurement(Denoise):
    """`model` with the measurement."""

    model: Denoise
    measurement: Measurement

    @property
    def sde(self) -> SDE:
        return self.model.sde

    def evaluations(self, t: Time) -> Evaluations:
        return self.model.evaluations(t)

    def __call__(self, x: Images, t: Time) -> Estimate:
        return self.model(x, t)


def measurement_of(solver: object, denoise: Denoise) -> Measurement:
    """The measurement that `denoise` carries.

    Raises: ValueError where it carries none.
    """
    if not isinstance(denoise, MeasuredDenoise):
        name = type(solver).__name__
        raise ValueError(
            f"{name} needs a denoiser with a measurement, got {type(denoise).__name__}; put Measured(operator, noise_std) "
            'last in the list of rules: guide(denoise, (…, Measured(…)), {"y": y}).'
        )
    return denoise.measurement


def with_pullback(model: Denoise, x: Images, t: Time) -> tuple[Estimate, Callable[[Images], Images]]:
    """(the model's estimate, v ↦ Jᵀ v), image by image."""

    def x0_and_eps(x):
        estimate = model(x, t)
        return estimate.x0, estimate.eps

    x0, pullback, eps = jax.vjp(x0_and_eps, x, has_aux=True)
    return Estimate(x0, eps), lambda v: pullback(v)[0]


def covariance_gain(sde: SDE, x: Images, t: Time) -> Float[Array, "..."]:
    """σ²/α, with which Cov[x0 | x_t] = (σ²/α) J. At α = 0, where J = 0, the result is 0."""
    alpha, sigma = expand_like(sde.alpha(t), x), expand_like(sde.sigma(t), x)
    return jnp.where(alpha > 0, sigma**2 / jnp.where(alpha > 0, alpha, 1), 0.0)


def moved(sde: SDE, x: Images, t: Time, estimate: Estimate, gradient: Images) -> Estimate:
    """The estimate with `gradient` ≈ ∇ log p(y | x_t) added to the score: x̂0 + (σ²/α) gradient, ε̂ − σ gradient.

    At α = 0, x_t contains no information about y, and x̂0 is not changed.
    """
    x0 = estimate.x0 + covariance_gain(sde, x, t) * gradient
    return Estimate(x0, estimate.eps - expand_like(sde.sigma(t), x) * gradient)
