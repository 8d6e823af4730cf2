"""Spiral arms."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int64

from score_sde.data.densities.base import Density, Points, equal_weights, normal_log_prob, require


@dataclasses.dataclass(frozen=True)
class Pinwheel(Density):
    """x = Rot(2πk/num_arms + twist·|a|) a with a = (radius + radial_std z_1, tangential_std z_2).

    The angle of the rotation depends on |a| alone. Such a map keeps areas, and |x| = |a|. So p_k(x)
    is exactly the Gaussian density of a = Rot(−2πk/num_arms − twist·|x|) x.

    Attributes:
      num_arms: the number of arms.
      radius: the distance from the origin to the middle of an arm.
      radial_std: half the length of an arm.
      tangential_std: half the width of an arm.
      twist: radians per unit of distance.

    Source: after the pinwheel of Johnson et al., arXiv 1603.06277. The angle there depends on the
      first coordinate of a, which gives no density in closed form.
    """

    num_arms: int = 5
    radius: float = 1.3
    radial_std: float = 0.4
    tangential_std: float = 0.12
    twist: float = 0.8

    def __post_init__(self):
        require(
            self.num_arms >= 1 and self.radial_std > 0 and self.tangential_std > 0,
            f"Pinwheel needs num_arms >= 1 and positive stds, got {self.num_arms}, {self.radial_std}, "
            f"{self.tangential_std}.",
        )

    @property
    def weights(self) -> Float[np.ndarray, " k"]:
        """Equal for all arms."""
        return equal_weights(self.num_arms)

    def transport(self, component: Int64[np.ndarray, " n"], u: Float[np.ndarray, "n 2"], z: Points) -> Points:
        """x = Rot(angle) a, as above."""
        arm = np.array([self.radius, 0.0]) + z * np.array([self.radial_std, self.tangential_std])
        return self._rotate(arm, component * (2 * np.pi / self.num_arms), sign=1)

    def component_log_prob(self, x: Points) -> Float[np.ndarray, "n k"]:
        """log N(a_1; radius, radial_std²) + log N(a_2; 0, tangential_std²) with a = Rot(−angle) x."""
        arms = np.stack(
            [self._rotate(x, np.full(len(x), k * 2 * np.pi / self.num_arms), sign=-1) for k in range(self.num_arms)],
            axis=1,
        )
        radial = normal_log_prob(arms[..., 0] - self.radius, self.radial_std)
        return radial + normal_log_prob(arms[..., 1], self.tangential_std)

    def _rotate(self, a: Points, arm_angle: Float[np.ndarray, " n"], sign: int) -> Points:
        angle = sign * (arm_angle + self.twist * np.hypot(a[:, 0], a[:, 1]))
        cos, sin = np.cos(angle), np.sin(angle)
        return np.stack([cos * a[:, 0] - sin * a[:, 1], sin * a[:, 0] + cos * a[:, 1]], axis=-1)
