"""The reverse-time SDE and the probability-flow ODE of (sde, denoise).

Source: Song et al., arXiv 2011.13456, Eqs. 6 and 13; Anderson 1982.
"""

from collections.abc import Callable

from jaxtyping import Array, Float

from score_sde.broadcast import expand_like
from score_sde.parameterizations import Estimate
from score_sde.sdes.base import SDE, Time

Denoise = Callable[[Float[Array, "b *shape"], Time], Estimate]


def score(sde: SDE, estimate: Estimate, t: Time) -> Float[Array, "b *shape"]:
    """∇ log p_t(x_t) = −ε̂/σ(t)."""
    return -estimate.eps / expand_like(sde.sigma(t), estimate.eps)


def velocity(sde: SDE, estimate: Estimate, t: Time) -> Float[Array, "b *shape"]:
    """dx/dt of the probability flow = f x − ½ g² ∇ log p_t = α' x̂0 + σ' ε̂.

    The second form, from the pair, is finite where f is not (α = 0), and needs no division.
    """
    alpha_rate = sde.alpha_and_derivative(t)[1]
    sigma_rate = sde.sigma_and_derivative(t)[1]
    return expand_like(alpha_rate, estimate.x0) * estimate.x0 + expand_like(sigma_rate, estimate.eps) * estimate.eps


def reverse_drift(sde: SDE, estimate: Estimate, x: Float[Array, "b *shape"], t: Time) -> Float[Array, "b *shape"]:
    """f x − g² ∇ log p_t, the drift of the reverse SDE in the direction of growing t; its noise is g(t)."""
    squared = sde.diffusion(t) ** 2
    return expand_like(sde.drift(t), x) * x - expand_like(squared, x) * score(sde, estimate, t)
