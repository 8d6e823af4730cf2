"""The last denoising, for solvers that end with noise."""

from typing import Any

import jax
import jax.numpy as jnp

from score_sde.dynamics import Denoise
from score_sde.pytree import pytree
from score_sde.sdes.base import SDE
from score_sde.solvers.base import Batch, Keys, Scalar, Solver, Step, Times, Wrapper, counted_step


@pytree
class DenoiseLast(Wrapper):
    """x_0 = x̂0(x_t, t) in the step that ends at 0, in every other step `solver`'s.

    A stochastic solver leaves noise of the size of its last step, `VE` ends at σ_min: this removes both, for one network
    evaluation, counted. The grid must go to 0 (`to_zero=True`). The 2021 code instead gives back the last step without
    its noise, at the level of the grid's end.

    Source: Jolicoeur-Martineau et al., arXiv 2009.05475.
    """

    solver: Solver

    def check(self, sde: SDE, times: Times) -> None:
        """Raises ValueError unless the grid ends at 0 after at least two steps."""
        if times[-1] != 0 or len(times) < 3:
            raise ValueError(
                f"DenoiseLast needs a grid that goes to 0, as with to_zero=True; got an end at t={times[-1]}."
            )
        self.solver.check(sde, times[:-1])

    def step(self, key: Keys, sde: SDE, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        def last():
            return denoise(x, t).x0, carry[0], jnp.ones(x.shape[:1], jnp.int32)

        def other():
            return counted_step(self.solver, key, sde, denoise, x, t, s, carry[0])

        x, inner, evaluations = jax.lax.cond(s == 0, last, other)
        return x, (inner, evaluations)
