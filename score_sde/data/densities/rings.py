"""Concentric rings."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int64

from score_sde.data.densities.base import Density, Points, equal_weights, normal_log_prob, require


@dataclasses.dataclass(frozen=True)
class Rings(Density):
    """Ring k has a uniform angle and the signed radius ρ ~ N(R_k, std²).

    In polar coordinates, ρ = |x| leads to x, and so does ρ = −|x| from the other side. With dx =
    |x| d|x| dφ, p_k(x) = [N(|x|; R_k, std²) + N(−|x|; R_k, std²)] / (2π |x|).

    Attributes:
      radii: R_k.
      std: the standard deviation of the radius.
    """

    radii: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    std: float = 0.05

    def __post_init__(self):
        require(
            bool(self.radii) and min(self.radii) > 0 and self.std > 0,
            f"Rings needs positive radii and std > 0, got radii={self.radii}, std={self.std}.",
        )

    @property
    def weights(self) -> Float[np.ndarray, " k"]:
        """Equal for all rings."""
        return equal_weights(len(self.radii))

    def transport(self, component: Int64[np.ndarray, " n"], u: Float[np.ndarray, "n 2"], z: Points) -> Points:
        """x = (R_k + std z) (cos 2πu, sin 2πu)."""
        radius = np.array(self.radii)[component] + self.std * z[:, 0]
        angle = 2 * np.pi * u[:, 0]
        return radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)

    def component_log_prob(self, x: Points) -> Float[np.ndarray, "n k"]:
        """log p_k(x), as above."""
        radius = np.hypot(x[:, 0], x[:, 1])[:, None]
        both = np.logaddexp(
            normal_log_prob(radius - np.array(self.radii), self.std),
            normal_log_prob(-radius - np.array(self.radii), self.std),
        )
        return both - np.log(2 * np.pi * radius)
