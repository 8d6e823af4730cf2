"""Two interleaved half circles."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int64

from score_sde.data.densities.base import Density, Points, equal_weights, require
from score_sde.data.densities.curve import curve_log_prob


@dataclasses.dataclass(frozen=True)
class Moons(Density):
    """x = R c_k(θ) + std z with θ uniform in [0, π], c_0 = (cos θ − ½, sin θ − ¼) and c_1 = −c_0.

    Attributes:
        radius: R of both half circles.
        std: standard deviation of the noise.
    """

    radius: float = 1.4
    std: float = 0.1

    def __post_init__(self):
        require(self.radius > 0 and self.std > 0, f"Moons needs radius > 0 and std > 0, got {self.radius}, {self.std}.")

    @property
    def weights(self) -> Float[np.ndarray, " k"]:
        """Equal for both moons."""
        return equal_weights(2)

    def transport(self, component: Int64[np.ndarray, " n"], u: Float[np.ndarray, "n 2"], z: Points) -> Points:
        """x = ±R c_0(πu) + std z."""
        sign = np.where(component == 0, 1.0, -1.0)
        return sign[:, None] * self._arc(np.pi * u[:, 0]) + self.std * z

    def component_log_prob(self, x: Points) -> Float[np.ndarray, "n k"]:
        """log ∫ N(x; ±R c_0(θ), std² I) dθ/π, by quadrature."""
        length = np.pi * self.radius
        moons = [curve_log_prob(sign * x, self._arc, 0.0, np.pi, length, self.std) for sign in (1, -1)]
        return np.stack(moons, axis=-1)

    def _arc(self, theta: Float[np.ndarray, " n"]) -> Points:
        return self.radius * np.stack([np.cos(theta) - 0.5, np.sin(theta) - 0.25], axis=-1)
