"""The density of a point on a curve plus Gaussian noise, shared by the members that are curves."""

from collections.abc import Callable

import numpy as np
import scipy.special
from jaxtyping import Float

from score_sde.data.densities.base import Points

_ROWS = 4096  # points at a time: the matrix of distances to the nodes stays near 10 MB


def curve_log_prob(
    x: Points,
    curve: Callable[[Float[np.ndarray, " m"]], Points],
    start: float,
    stop: float,
    length: float,
    std: float,
) -> Float[np.ndarray, " n"]:
    """log p(x), p(x) = ∫ N(x; c(θ), std² I) dθ / (stop − start), for θ uniform in [start, stop].

    Error: Gauss–Legendre quadrature with eight nodes per standard deviation of the noise along the curve, where the
    integrand is analytic: below 1e-10 of p(x).

    Args:
        x: the points.
        curve: θ -> c(θ).
        start: first θ.
        stop: last θ.
        length: upper bound of the curve's length, which sets the number of nodes.
        std: standard deviation of the noise.
    """
    nodes, weights = np.polynomial.legendre.leggauss(int(max(64, np.ceil(8 * length / std))))
    centres = curve(start + (stop - start) * (nodes + 1) / 2)
    log_scale = -np.log(2 * np.pi * std**2)
    blocks = []
    for block in np.array_split(x, max(1, len(x) // _ROWS)):
        squares = np.sum((block[:, None] - centres) ** 2, axis=-1)
        blocks.append(scipy.special.logsumexp(-0.5 * squares / std**2, axis=1, b=weights / 2) + log_scale)
    return np.concatenate(blocks)
