"""Densities p(x) = Σ_k w_k p_k(x) with exact samples and exact log-probabilities, in float64.

Symbols: x [n, d] are points, k is the component of a point, w_k is its weight, u is uniform in [0,
1), and z is standard normal.
"""

import abc

import numpy as np
import scipy.special
from jaxtyping import Float, Int64, UInt64

from score_sde.data.hashing import fold, normals, uniforms

Points = Float[np.ndarray, "n d"]


class Density(abc.ABC):
    """A mixture. A subclass defines how one component is drawn, and the density of each component."""

    @property
    def dimension(self) -> int:
        """d."""
        return 2

    @property
    @abc.abstractmethod
    def weights(self) -> Float[np.ndarray, " k"]:
        """w_k, positive, with the sum 1."""

    @abc.abstractmethod
    def transport(self, component: Int64[np.ndarray, " n"], u: Float[np.ndarray, "n 2"], z: Points) -> Points:
        """Maps uniforms u and normals z to points of the given components."""

    @abc.abstractmethod
    def component_log_prob(self, x: Points) -> Float[np.ndarray, "n k"]:
        """log p_k(x), in nats, for every component."""

    def log_prob(self, x: Points) -> Float[np.ndarray, " n"]:
        """log p(x) = log Σ_k w_k p_k(x), in nats."""
        return scipy.special.logsumexp(self.component_log_prob(x), axis=1, b=self.weights)

    def draw(self, keys: UInt64[np.ndarray, " n"]) -> tuple[Points, Int64[np.ndarray, " n"]]:
        """(one point for each key, the component of each point)."""
        u = uniforms(fold(keys, 0), 3)
        component = np.searchsorted(np.cumsum(self.weights)[:-1], u[:, 0], side="right")
        return self.transport(component, u[:, 1:], normals(fold(keys, 1), self.dimension)), component


def equal_weights(count: int) -> Float[np.ndarray, " k"]:
    """w_k = 1/count."""
    return np.full(count, 1 / count)


def normal_log_prob(residual: Float[np.ndarray, "*n"], std: float) -> Float[np.ndarray, "*n"]:
    """log N(residual; 0, std²) of numbers, in nats."""
    return -0.5 * (residual / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)


def require(valid: bool, message: str) -> None:
    """Raises ValueError(message) unless `valid`."""
    if not valid:
        raise ValueError(message)
