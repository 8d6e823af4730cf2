"""Static thresholding: x̂0 kept within the range of the data."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.denoising.estimate import Estimate
from score_sde.guidance.base import EstimateRule, with_x0
from score_sde.internal.pytree import pytree
from score_sde.sdes.base import SDE, Time


@pytree
class Threshold(EstimateRule):
    """x̂0 ← clip(x̂0, −limit, limit) and ε̂ ← (x − α x̂0)/σ, so that the pair is still consistent with x.

    Args:
      limit: the end of the range [−limit, limit].
    Raises: ValueError unless limit > 0.
    Source: Ho et al., arXiv 2006.11239 (its code); "static" in arXiv 2205.11487.
    """

    limit: float = 1.0

    def __post_init__(self):
        if not self.limit > 0:
            raise ValueError(f"Threshold needs limit > 0, got limit={self.limit}.")

    def change(self, sde: SDE, x: Float[Array, "b *shape"], t: Time, estimate: Estimate) -> Estimate:
        return with_x0(sde, x, t, estimate, jnp.clip(estimate.x0, -self.limit, self.limit))
