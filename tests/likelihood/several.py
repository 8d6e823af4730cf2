"""Several divergences in one solve, so that a test of all of them compiles once for each SDE."""

import jax.numpy as jnp

from score_sde.internal.pytree import pytree
from score_sde.likelihood import Divergence


@pytree
class Several(Divergence):
    """The values of all `members`, side by side."""

    members: tuple

    def draw(self, key, x):
        return [member.draw(key, x) for member in self.members]

    def __call__(self, velocity, x, probes):
        pairs = [member(velocity, x, own) for member, own in zip(self.members, probes, strict=True)]
        return pairs[0][0], jnp.concatenate([values for _, values in pairs], axis=1)
