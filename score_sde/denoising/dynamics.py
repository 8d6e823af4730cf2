"""The protocol of denoisers, and the reverse SDE and probability flow that a denoiser gives.

Source: Song et al., arXiv 2011.13456, Eqs. 6 and 13; Anderson 1982.
"""

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from jaxtyping import Array, Float, Int

from score_sde.denoising.estimate import Estimate
from score_sde.internal.broadcast import expand_like
from score_sde.internal.per_example import Weight
from score_sde.sdes.base import SDE, Time

Evaluations = Int[Array, "..."] | int  # one number, or one for each image


@runtime_checkable
class Denoise(Protocol):
    """denoise(x, t) -> (x̂0, ε̂): the interface between networks, guidance, solvers and the likelihood.

    Attributes:
      sde: the SDE whose x_t it denoises. Solvers and likelihoods take the SDE from here.
      weight: 1 where x has a number and 0 where it has padding, [b, …] for the first axes of x. None:
        no padding. Norms, densities and dimensions of an example do not count its padding. What the
        padding holds must not change the output elsewhere: a network gets the mask as a condition.
    """

    if TYPE_CHECKING:  # a property says read-only; at run time, dataclasses would take it as the default of the field

        @property
        def sde(self) -> SDE: ...

        @property
        def weight(self) -> Weight:
            return None

    else:
        sde: SDE
        weight = None

    def __call__(self, x: Float[Array, "b *shape"], t: Time) -> Estimate:
        """(x̂0, ε̂) of x_t. t is one time, or one time for each image."""
        ...

    def evaluations(self, t: Time) -> Evaluations:
        """The network evaluations of a call at t: one number, or one for each time of t.

        For example, a guided denoiser that runs its network twice returns 2, and 1 at times where
        it does not guide.
        """
        return 1


def score(sde: SDE, estimate: Estimate, t: Time) -> Float[Array, "b *shape"]:
    """∇ log p_t(x_t) = −ε̂/σ(t)."""
    return -estimate.eps / expand_like(sde.sigma(t), estimate.eps)


def velocity(sde: SDE, estimate: Estimate, t: Time) -> Float[Array, "b *shape"]:
    """dx/dt of the probability flow = f x − ½ g² ∇ log p_t = α' x̂0 + σ' ε̂.

    The last form is used. It is finite where f is infinite (α = 0), and it needs no division.
    """
    alpha_rate = sde.alpha_and_derivative(t)[1]
    sigma_rate = sde.sigma_and_derivative(t)[1]
    return expand_like(alpha_rate, estimate.x0) * estimate.x0 + expand_like(sigma_rate, estimate.eps) * estimate.eps


def reverse_drift(sde: SDE, estimate: Estimate, x: Float[Array, "b *shape"], t: Time) -> Float[Array, "b *shape"]:
    """f x − g² ∇ log p_t: the drift of the reverse SDE, for growing t. Its diffusion is g(t)."""
    squared = sde.diffusion(t) ** 2
    return expand_like(sde.drift(t), x) * x - expand_like(squared, x) * score(sde, estimate, t)
