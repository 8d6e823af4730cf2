"""Thresholding: x̂0 kept within the range of the data. Wrappers of a denoiser: denoise in, denoise out."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.broadcast import expand_like
from score_sde.dynamics import Denoise, Evaluations
from score_sde.function_denoiser import as_denoise
from score_sde.parameterizations import Estimate
from score_sde.pytree import pytree
from score_sde.sdes.base import SDE, Time


@pytree
class Threshold(Denoise):
    """x̂0 ← clip(x̂0, −limit, limit), and ε̂ ← (x − α x̂0)/σ, so that the pair still explains x.

    Raises: ValueError unless limit > 0. Source: Ho et al., arXiv 2006.11239 (its code); "static" in arXiv 2205.11487.
    """

    denoise: Denoise
    limit: float = 1.0

    def __post_init__(self):
        object.__setattr__(self, "denoise", as_denoise(self.denoise))
        if not self.limit > 0:
            raise ValueError(f"Threshold needs limit > 0, got limit={self.limit}.")

    @property
    def sde(self) -> SDE:
        return self.denoise.sde

    def evaluations(self, t: Time) -> Evaluations:
        return self.denoise.evaluations(t)

    def __call__(self, x: Float[Array, "b *shape"], t: Time) -> Estimate:
        estimate = self.denoise(x, t)
        return _explaining(self.sde, x, t, estimate, jnp.clip(estimate.x0, -self.limit, self.limit))


@pytree
class DynamicThreshold(Denoise):
    """x̂0 ← limit clip(x̂0, −a, a)/a with a = max(limit, the percentile of |x̂0| over one image), and ε̂ to match.

    Against the saturation that strong guidance makes. Only for data in [−limit, limit].

    Raises: ValueError unless 0 < percentile <= 1 and limit > 0.
    Source: Saharia et al. (Imagen), arXiv 2205.11487, Sec. 2.3 and App. C (its p is 0.995 here).
    """

    denoise: Denoise
    percentile: float = 0.995
    limit: float = 1.0

    def __post_init__(self):
        object.__setattr__(self, "denoise", as_denoise(self.denoise))
        if not (0 < self.percentile <= 1 and self.limit > 0):
            raise ValueError(
                f"DynamicThreshold needs 0 < percentile <= 1 and limit > 0, got percentile={self.percentile}, "
                f"limit={self.limit}."
            )

    @property
    def sde(self) -> SDE:
        return self.denoise.sde

    def evaluations(self, t: Time) -> Evaluations:
        return self.denoise.evaluations(t)

    def __call__(self, x: Float[Array, "b *shape"], t: Time) -> Estimate:
        estimate = self.denoise(x, t)
        sizes = jnp.abs(estimate.x0).reshape(x.shape[0], -1)
        reach = jnp.maximum(jnp.quantile(sizes, jnp.asarray(self.percentile, x.dtype), axis=1), self.limit)
        reach = expand_like(reach, x)
        return _explaining(self.sde, x, t, estimate, self.limit * jnp.clip(estimate.x0 / reach, -1, 1))


THRESHOLDS = {"static": Threshold, "dynamic": DynamicThreshold}


def _explaining(sde: SDE, x: Float[Array, "b *shape"], t: Time, estimate: Estimate, x0: Float[Array, "b *shape"]):
    """(x0, ε) with x = α x0 + σ ε, from a pair that has this: ε changes by α/σ times what x0 lost, and not where σ = 0."""
    alpha, sigma = expand_like(sde.alpha(t), x), expand_like(sde.sigma(t), x)
    return Estimate(x0, estimate.eps + jnp.where(sigma > 0, alpha / sigma, 0.0) * (estimate.x0 - x0))
