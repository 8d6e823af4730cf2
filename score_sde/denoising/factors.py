"""Denoisers of a product ∏ q_i(x_t)^{a_i} of densities, with access to the factors."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.denoising.dynamics import Denoise
from score_sde.denoising.estimate import Estimate
from score_sde.internal.broadcast import expand_like
from score_sde.sdes.base import SDE, Time

Powers = Sequence[Float[Array, ""] | float]


def weighted_sum(powers: Powers, values: Sequence[Float[Array, "*any"]]) -> Float[Array, "*any"]:
    """Σ a_i v_i."""
    total = powers[0] * values[0]
    for power, value in zip(powers[1:], values[1:], strict=True):
        total = total + power * value
    return total


class Factors(NamedTuple):
    """The powers a_i, and the pair (x̂0, ε̂) of each q_i."""

    powers: tuple[Float[Array, ""] | float, ...]
    estimates: tuple[Estimate, ...]

    def product(self, sde: SDE, x: Float[Array, "b *shape"], t: Time) -> Estimate:
        """ε̂ = Σ a_i ε̂_i and x̂0 = Σ a_i x̂0_i + (1 − Σ a_i) x/α, the pair whose score is Σ a_i ∇ log q_i.

        Where α = 0 the last term is left out.
        """
        x0, eps = (weighted_sum(self.powers, [each[i] for each in self.estimates]) for i in range(2))
        alpha = expand_like(sde.alpha(t), x)
        rest = (1 - sum(self.powers)) * x / jnp.where(alpha > 0, alpha, 1.0)
        return Estimate(x0 + jnp.where(alpha > 0, rest, 0.0), eps)


@runtime_checkable
class Factored(Denoise, Protocol):
    """A denoiser of a product. `powers` do not change with t."""

    @property
    def powers(self) -> tuple[Float[Array, ""] | float, ...]:
        """a_i."""
        ...

    def factors(self, x: Float[Array, "b *shape"], t: Time) -> Factors:
        """The factors at x_t. They cost as many network evaluations as a call."""
        ...

    def repeated(self, number: int) -> "Factored":
        """The same denoiser with each row repeated `number` times."""
        ...
