"""Weightings: the weight of each noise level, on the error in which its paper writes it.

Symbols: δε = ε̂ − ε and δx = x̂0 − x0. Because α δx + σ δε = 0, the errors of the score, of v and
of the flow velocity are multiples of them.
"""

import abc
import math
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.denoising.estimate import Estimate
from score_sde.internal.broadcast import expand_like
from score_sde.internal.pytree import pytree
from score_sde.sdes.base import SDE, Scalar, Time


def squared_error(
    sde: SDE, estimate: Estimate, x0: Float[Array, "b *shape"], eps: Float[Array, "b *shape"], t: Time, error: str
) -> Float[Array, "b *shape"]:
    """The squared error, elementwise, of "eps", "x0", "score", "v" or "flow" (ε̂ − x̂0).

    Where α = 0, x̂0 may be unknown (NaN). The errors of ε and of the score then come from ε̂ alone.
    """
    alpha, sigma = expand_like(sde.alpha(t), x0), expand_like(sde.sigma(t), x0)
    # All errors are multiples of δv = α δε − σ δx, which loses no digits. δε alone cancels where
    # σ ≫ α, and δx alone where α ≫ σ.
    v_error = alpha * (estimate.eps - eps) - sigma * (estimate.x0 - x0)
    norm = alpha**2 + sigma**2
    factors: dict[str, Callable[[], Any]] = {
        "v": lambda: 1.0,
        "eps": lambda: alpha / norm,
        "x0": lambda: sigma / norm,
        "score": lambda: alpha / (sigma * norm),
        "flow": lambda: (alpha + sigma) / norm,
    }
    value = factors[error]() * v_error
    if error in ("eps", "score"):
        alone = estimate.eps - eps
        value = jnp.where(alpha > 0, value, alone if error == "eps" else alone / sigma)
    return value**2


class Weighting(abc.ABC):
    """w(t), the weight of the squared error of `error`."""

    error: ClassVar[str]

    @abc.abstractmethod
    def __call__(self, sde: SDE, t: Float[Array, " b"]) -> Float[Array, " b"]:
        """The weight at time t."""


@pytree
class SigmaSquared(Weighting):
    """σ² ‖score error‖² = ‖δε‖², DDPM's simple loss. Source: arXiv 2011.13456, Eq. 7 with λ(t) = σ²."""

    error: ClassVar[str] = "eps"

    def __call__(self, sde: SDE, t: Float[Array, " b"]) -> Float[Array, " b"]:
        return jnp.ones_like(t)


@pytree
class Likelihood(Weighting):
    """g² ‖score error‖² = −(dλ/dt) ‖δε‖². Half its integral over t bounds −log p(x0) up to a constant.

    Source: Song et al., arXiv 2101.09258, Thm. 1 and Eq. 8.
    """

    error: ClassVar[str] = "score"

    def __call__(self, sde: SDE, t: Float[Array, " b"]) -> Float[Array, " b"]:
        return sde.diffusion(t) ** 2


@pytree
class EDMWeighting(Weighting):
    """(σ̃² + σ_data²)/(σ̃ σ_data)² ‖δx‖² with σ̃ = σ/α.

    For F = 0 and data of standard deviation σ_data, the loss is 1 at every level.

    Raises: ValueError unless 0 < sigma_data < ∞.
    Source: Karras et al., arXiv 2206.00364, Table 1 and Eq. 8.
    """

    error: ClassVar[str] = "x0"
    sigma_data: Scalar = 0.5

    def __post_init__(self):
        if not 0 < self.sigma_data < math.inf:
            raise ValueError(
                "EDMWeighting needs sigma_data > 0, the standard deviation of the data, got "
                f"sigma_data={self.sigma_data}; images in [−1, 1] have about 0.5."
            )

    def __call__(self, sde: SDE, t: Float[Array, " b"]) -> Float[Array, " b"]:
        return jnp.exp(sde.log_snr(t)) + 1 / self.sigma_data**2


@pytree
class MinSNR(Weighting):
    """min(SNR, γ) ‖δx‖². Raises: ValueError unless gamma > 0. Source: Hang et al., arXiv 2303.09556, Sec. 3.4 (γ = 5)."""

    error: ClassVar[str] = "x0"
    gamma: Scalar = 5.0

    def __post_init__(self):
        if not self.gamma > 0:
            raise ValueError(f"MinSNR needs gamma > 0, the largest weight, got gamma={self.gamma}; the paper has 5.")

    def __call__(self, sde: SDE, t: Float[Array, " b"]) -> Float[Array, " b"]:
        return jnp.minimum(jnp.exp(sde.log_snr(t)), self.gamma)


@pytree
class Sigmoid(Weighting):
    """−(dλ/dt) sigmoid(bias − λ) ‖δε‖². Source: Kingma & Gao, arXiv 2303.00848, App. D (bias = 2), for uniform t."""

    error: ClassVar[str] = "score"
    bias: float = 2.0

    def __call__(self, sde: SDE, t: Float[Array, " b"]) -> Float[Array, " b"]:
        return sde.diffusion(t) ** 2 * jax.nn.sigmoid(self.bias - sde.log_snr(t))


@pytree
class FlowMatching(Weighting):
    """‖(ε̂ − x̂0) − (ε − x0)‖², unweighted. Source: Liu et al., arXiv 2209.03003, Eq. 1."""

    error: ClassVar[str] = "flow"

    def __call__(self, sde: SDE, t: Float[Array, " b"]) -> Float[Array, " b"]:
        return jnp.ones_like(t)


@pytree
class VelocityMatching(Weighting):
    """‖v̂ − v‖² = (SNR + 1) ‖δx‖² for variance-preserving SDEs. Source: Salimans & Ho, arXiv 2202.00512, Sec. 4."""

    error: ClassVar[str] = "v"

    def __call__(self, sde: SDE, t: Float[Array, " b"]) -> Float[Array, " b"]:
        return jnp.ones_like(t)


WEIGHTINGS = {
    "sigma_squared": SigmaSquared,
    "likelihood": Likelihood,
    "edm": EDMWeighting,
    "min_snr": MinSNR,
    "sigmoid": Sigmoid,
    "flow": FlowMatching,
    "v": VelocityMatching,
}
