"""Dynamic thresholding: an image that leaves the range of the data is scaled back into it."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.denoising.estimate import Estimate
from score_sde.guidance.base import EstimateRule, with_x0
from score_sde.internal.broadcast import expand_like
from score_sde.internal.pytree import pytree
from score_sde.sdes.base import SDE, Time


@pytree
class DynamicThreshold(EstimateRule):
    """x̂0 ← limit clip(x̂0, −a, a)/a with a = max(limit, the percentile of |x̂0| over one image), and ε̂ to match.

    Strong guidance saturates images, and this rule keeps them within the range. It is only for data
    in [−limit, limit].

    Args:
      percentile: the fraction p of |x̂0| below a, between 0 and 1.
      limit: the end of the range [−limit, limit].
    Raises: ValueError unless 0 < percentile <= 1 and limit > 0.
    Source: Saharia et al. (Imagen), arXiv 2205.11487, Sec. 2.3 and App. C (its p is 0.995 here).
    """

    percentile: float = 0.995
    limit: float = 1.0

    def __post_init__(self):
        if not (0 < self.percentile <= 1 and self.limit > 0):
            raise ValueError(
                f"DynamicThreshold needs 0 < percentile <= 1 and limit > 0, got percentile={self.percentile}, "
                f"limit={self.limit}."
            )

    def change(self, sde: SDE, x: Float[Array, "b *shape"], t: Time, estimate: Estimate) -> Estimate:
        sizes = jnp.abs(estimate.x0).reshape(x.shape[0], -1)
        reach = jnp.maximum(jnp.quantile(sizes, jnp.asarray(self.percentile, x.dtype), axis=1), self.limit)
        reach = expand_like(reach, x)
        return with_x0(sde, x, t, estimate, self.limit * jnp.clip(estimate.x0 / reach, -1, 1))
