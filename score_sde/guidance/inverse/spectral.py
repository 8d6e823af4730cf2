"""The parts shared by the solvers that work in the coordinates of a singular value decomposition."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from score_sde.guidance.inverse.base import Measurement, residual
from score_sde.guidance.operators import Decomposed, measured_values
from score_sde.sdes.base import SDE
from score_sde.solvers import noise
from score_sde.solvers.base import Batch, Keys, Scalar

Values = Float[Array, "_ *k"]


class Seen(NamedTuple):
    """The measurement in coordinates of x0.

    Attributes:
      operator: the operator, which defines the coordinates.
      y: Σ⁺ Uᵀ y, which is Vᵀ x0 plus noise where it is measured.
      noise_std: σ_y/Σ, the standard deviation of that noise. It is infinite where nothing is
        measured.
    """

    operator: Decomposed
    y: Shaped[Array, "b *k"]
    noise_std: Values


def seen(solver: object, measurement: Measurement, x: Batch) -> Seen:
    """The measurement of images like `x`.

    Raises: ValueError for an operator whose singular value decomposition is not known.
    """
    operator, shape = measurement.operator, x.shape[1:]
    if not isinstance(operator, Decomposed):
        raise ValueError(
            f"{type(solver).__name__} needs an operator with a known singular value decomposition, got "
            f"{type(operator).__name__}; use PiGDM or MMPS for other linear operators, DPS for any."
        )
    residual(measurement, x)  # checks the shapes
    values = measured_values(operator, shape)[None].astype(x.dtype)
    inverse = jnp.where(values > 0, 1 / jnp.where(values > 0, values, 1), 0)
    z = operator.measured_coordinates(measurement.y.astype(x.dtype), shape)
    std = jnp.where(values > 0, measurement.noise_std * inverse, jnp.inf)
    return Seen(operator, inverse.astype(z.dtype) * z, std.astype(x.dtype))


def choose(condition: Array, first: Array, second: Array) -> Array:
    """`first` where `condition` holds, for coordinates of any type."""
    return jnp.where(condition, first, second)


def times(values: Array, z: Array) -> Array:
    """values · z, for real values and real or complex coordinates."""
    return jnp.asarray(values).astype(z.dtype) * z


def replaced(key: Keys, sde: SDE, x: Batch, t: Scalar, measured: Seen) -> Batch:
    """x_t, with α y + √(σ² − α² σ_y²/Σ²) z in each coordinate that is measured with less noise than x_t has."""
    operator, y, std = measured
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    is_known = alpha * std <= sigma
    rest = jnp.sqrt(jnp.where(is_known, sigma**2 - (alpha * jnp.where(is_known, std, 0)) ** 2, 0))
    z = operator.to_coordinates(noise.like(key, sde, x))
    known = times(alpha, y) + times(rest, z)
    return operator.from_coordinates(choose(is_known, known, operator.to_coordinates(x)), x.shape[1:]).astype(x.dtype)
