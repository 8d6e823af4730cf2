"""A spiral."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int64

from score_sde.data.densities.base import Density, Points, equal_weights, require
from score_sde.data.densities.curve import curve_log_prob

_START, _STOP = 1.5 * np.pi, 4.5 * np.pi


@dataclasses.dataclass(frozen=True)
class SwissRoll(Density):
    """x = R θ/(4.5π) (cos θ, sin θ) + std z with θ uniform in [1.5π, 4.5π].

    Attributes:
        radius: R, the outer radius.
        std: standard deviation of the noise.
    """

    radius: float = 2.0
    std: float = 0.1

    def __post_init__(self):
        require(
            self.radius > 0 and self.std > 0, f"SwissRoll needs radius > 0 and std > 0, got {self.radius}, {self.std}."
        )

    @property
    def weights(self) -> Float[np.ndarray, " k"]:
        """One component."""
        return equal_weights(1)

    def transport(self, component: Int64[np.ndarray, " n"], u: Float[np.ndarray, "n 2"], z: Points) -> Points:
        """x = c(θ) + std z with θ = 1.5π + 3πu."""
        return self._spiral(_START + (_STOP - _START) * u[:, 0]) + self.std * z

    def component_log_prob(self, x: Points) -> Float[np.ndarray, "n k"]:
        """log ∫ N(x; c(θ), std² I) dθ/3π, by quadrature."""
        length = (_STOP - _START) * self.radius * np.hypot(1, 1 / _STOP)  # the speed is largest at the outer end
        return curve_log_prob(x, self._spiral, _START, _STOP, length, self.std)[:, None]

    def _spiral(self, theta: Float[np.ndarray, " n"]) -> Points:
        return (self.radius * theta / _STOP)[:, None] * np.stack([np.cos(theta), np.sin(theta)], axis=-1)
