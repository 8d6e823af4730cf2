"""Adaptive projected guidance (APG)."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.denoising.estimate import Estimate
from score_sde.denoising.memory import Memory
from score_sde.guidance.base import with_x0
from score_sde.guidance.contrast import NullContrast
from score_sde.guidance.scaled import Place
from score_sde.internal.per_example import Weight, weighted
from score_sde.internal.pytree import pytree, static

Batch = Float[Array, "b *shape"]


@pytree
class APG(NullContrast):
    """x̂0 = x̂0(c) + (scale − 1) (Δ⊥ + η Δ∥), with Δ = x̂0(c) − x̂0(∅) after momentum and a limit to its norm; ε̂ to match.

    Δ∥ is the part of Δ along x̂0(c), which saturates images, and Δ⊥ is the rest. First Δ ← Δ +
    momentum · Δ of the last call, then Δ ← Δ min(1, norm_threshold/‖Δ‖). Norms and products are
    over one image. scale = 1 is the conditional model.

    The last call means the last call of the network, as in the authors' code. A solver with two
    calls a step updates the momentum twice a step. A `Memory` keeps Δ. Reverse-mode derivatives and
    `vmap` of a whole solve need momentum=None.

    Attributes:
      eta: the fraction of Δ∥ that is kept. 1 is classifier-free guidance if momentum and
        norm_threshold are None.
      norm_threshold: the largest ‖Δ‖. None: no limit.
      momentum: β. The paper takes negative values. None: 0, and no memory.
      axes: the axes of an image, from 0, over which norms and products run. For example, (0, 1) of
        [h, w, c] takes each channel by itself. None: all axes.

    Raises: ValueError as `Contrast`, and for norm_threshold <= 0 or |momentum| >= 1.
    Source: Sadat et al., arXiv 2410.02416, Algorithm 1, with its r as norm_threshold.
    """

    eta: float = 0.0
    norm_threshold: float | None = None
    momentum: float | None = None
    axes: tuple[int, ...] | None = static(default=None)

    def __post_init__(self):
        super().__post_init__()
        if self.norm_threshold is not None and not self.norm_threshold > 0:
            raise ValueError(f"APG needs norm_threshold > 0 or None, got norm_threshold={self.norm_threshold}.")
        if self.momentum is not None and not abs(self.momentum) < 1:
            raise ValueError(
                f"APG needs -1 < momentum < 1, else Δ grows from call to call, got momentum={self.momentum}."
            )

    def memory(self) -> Memory | None:
        return None if self.momentum is None else Memory()

    def combine(self, place: Place, positive: Estimate, negative: Estimate, memory: Memory | None) -> Estimate:
        difference = positive.x0 - negative.x0
        if memory is not None and self.momentum is not None:
            before = memory.read(difference)
            difference = difference + self.momentum * before
            memory.write(jnp.where(place.inside, difference, before))
        if self.norm_threshold is not None:
            # This form of min(1, norm_threshold/‖Δ‖) does not divide by 0 where both models agree.
            norm = jnp.sqrt(self._product(difference, difference, place.weight))
            difference = difference * self.norm_threshold / jnp.maximum(norm, self.norm_threshold)
        along = self._along(positive.x0, difference, place.weight)
        change = (place.scale - 1) * (difference + (self.eta - 1) * along)
        return with_x0(place.sde, place.x, place.t, positive, positive.x0 + change)

    def _product(self, a: Batch, b: Batch, weight: Weight) -> Float[Array, "b ..."]:
        axes = range(a.ndim - 1) if self.axes is None else self.axes
        return jnp.sum(weighted(a * b, weight), axis=tuple(axis + 1 for axis in axes), keepdims=True)

    def _along(self, x0: Batch, difference: Batch, weight: Weight) -> Batch:
        """Δ∥; 0 where x̂0 = 0."""
        square = self._product(x0, x0, weight)
        share = self._product(difference, x0, weight) / jnp.where(square > 0, square, 1.0)
        return share * x0
