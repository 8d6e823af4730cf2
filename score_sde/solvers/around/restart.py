"""The restart sampler: it adds fresh noise up to a higher noise level, solves down again, and repeats this."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_sde.denoising.dynamics import Denoise
from score_sde.internal.pytree import pytree
from score_sde.sdes.base import SDE
from score_sde.solvers import noise
from score_sde.solvers.base import (
    Batch,
    Count,
    Keys,
    Scalar,
    Solver,
    Step,
    StepsLeft,
    Times,
    Wrapper,
    for_each_image,
)


@pytree
class Restart(Wrapper):
    """`solver`'s steps; where the grid goes up, x_s = α_{s|t} x_t + S_noise σ_{s|t} z, at no evaluation.

    After a step up, the history of `solver` starts afresh. It still knows how many steps of the
    whole solve are left. So what `solver` does in its last steps (`lower_order_below`,
    `correct_last`) is done once, at the end of the solve.

    The grid `WithRestarts` sets the amount of noise: the interval of the restart, and how often it
    is repeated. The paper has S_noise = 1.003 on ImageNet.

    Args:
      solver: the solver of the steps towards the data.
      S_noise: a factor of the standard deviation of the noise.
    Raises: ValueError unless S_noise >= 0.
    Source: Xu et al., arXiv 2306.14878, Algorithm 1.
    """

    solver: Solver
    S_noise: float = 1.0

    def __post_init__(self):
        if not self.S_noise >= 0:
            raise ValueError(f"Restart needs S_noise >= 0, got S_noise={self.S_noise}.")

    def check(self, sde: SDE, times: Times) -> None:
        """Checks `solver` on all of these times in decreasing order, as `solver` meets them on its way down."""
        self.solver.check(sde, np.unique(times)[::-1])

    def init(self, x: Batch, num_steps: Count) -> Any:
        number = jnp.asarray(num_steps, jnp.int32)
        return super().init(x, num_steps), number, StepsLeft(number)

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        sde, (inner, num_steps, left) = denoise.sde, carry
        left = left.after_a_step()

        def up():
            scale, std = sde.transition(t, s)
            fresh = _with_steps_left(self.solver.init(x, num_steps), left)
            fresh = jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), fresh, inner)
            return scale * x + noise.scaled(key, sde, x, self.S_noise * std), fresh, jnp.zeros(x.shape[:1], jnp.int32)

        def down():
            moved, after, evaluations = self.solver.step(key, denoise, x, t, s, inner)
            return moved, after, for_each_image(evaluations, x)

        x, inner, evaluations = jax.lax.cond(s > t, up, down)
        return x, (inner, num_steps, left), evaluations


def _with_steps_left(carry: Any, left: StepsLeft) -> Any:
    """The carry, with `left` in every place that counts the steps still to come."""

    def is_count(node):
        return isinstance(node, StepsLeft)

    return jax.tree.map(lambda node: left if is_count(node) else node, carry, is_leaf=is_count)
