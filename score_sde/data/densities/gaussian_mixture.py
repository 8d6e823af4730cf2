"""Gaussians at given places."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int64

from score_sde.data.densities.base import Density, Points, equal_weights, require

_EIGHT_ON_A_CIRCLE = tuple(
    (float(np.sqrt(2) * np.cos(angle)), float(np.sqrt(2) * np.sin(angle))) for angle in np.arange(8) * np.pi / 4
)


@dataclasses.dataclass(frozen=True)
class GaussianMixture(Density):
    """p_k = N(μ_k, std² I) in any dimension; by default eight modes on a circle of radius √2 (unit variance).

    Attributes:
        means: μ_k, one tuple per mode.
        std: standard deviation of every mode.
        mode_weights: w_k up to a factor; None: equal.
    """

    means: tuple[tuple[float, ...], ...] = _EIGHT_ON_A_CIRCLE
    std: float = 0.1
    mode_weights: tuple[float, ...] | None = None

    def __post_init__(self):
        sizes = {len(mean) for mean in self.means}
        require(
            self.std > 0 and len(sizes) == 1 and 0 not in sizes,
            f"GaussianMixture needs std > 0 and means of one length, got std={self.std}, means={self.means}.",
        )
        require(
            self.mode_weights is None or (len(self.mode_weights) == len(self.means) and min(self.mode_weights) > 0),
            f"GaussianMixture needs a positive weight for each of {len(self.means)} means, got {self.mode_weights}.",
        )

    @property
    def dimension(self) -> int:
        """Length of the means."""
        return len(self.means[0])

    @property
    def weights(self) -> Float[np.ndarray, " k"]:
        """The mode weights, divided by their sum."""
        if self.mode_weights is None:
            return equal_weights(len(self.means))
        return np.array(self.mode_weights) / sum(self.mode_weights)

    def transport(self, component: Int64[np.ndarray, " n"], u: Float[np.ndarray, "n 2"], z: Points) -> Points:
        """x = μ_k + std z."""
        return np.array(self.means)[component] + self.std * z

    def component_log_prob(self, x: Points) -> Float[np.ndarray, "n k"]:
        """−|x − μ_k|²/(2 std²) − (d/2) ln(2π std²)."""
        squares = np.sum((x[:, None] - np.array(self.means)) ** 2, axis=-1)
        return -0.5 * squares / self.std**2 - self.dimension * (np.log(self.std) + 0.5 * np.log(2 * np.pi))
