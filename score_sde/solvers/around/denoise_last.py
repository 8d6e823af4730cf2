"""The final denoising step, for solvers that end with noise."""

from typing import Any

import jax

from score_sde.denoising.dynamics import Denoise
from score_sde.internal.pytree import pytree
from score_sde.sdes.base import SDE
from score_sde.solvers.base import Batch, Keys, Scalar, Solver, Step, Times, Wrapper, for_each_image


@pytree
class DenoiseLast(Wrapper):
    """x_0 = x̂0(x_t, t) in the step that ends at 0. Every other step is `solver`'s.

    A stochastic solver leaves noise of the size of its last step, and `VE` ends at σ_min. This
    wrapper removes both, for one network evaluation, which is counted. The grid must go to 0
    (`to_zero=True`). The 2021 code does something else: it returns the last step without its noise,
    at the noise level of the grid's end.

    Args:
      solver: the solver of all steps but the last.
    Source: Jolicoeur-Martineau et al., arXiv 2009.05475.
    """

    solver: Solver

    def check(self, sde: SDE, times: Times) -> None:
        """Raises ValueError unless the grid ends at 0 after at least two steps."""
        if times[-1] != 0:
            raise ValueError(
                f"DenoiseLast needs a grid that goes to 0, as with to_zero=True; got an end at t={times[-1]}."
            )
        if len(times) < 3:
            raise ValueError(
                f"DenoiseLast needs a step of its solver before the last one, got {len(times) - 1} step; take 2 steps or more."
            )
        self.solver.check(sde, times[:-1])

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        def last():
            return denoise(x, t).x0, carry, for_each_image(denoise.evaluations(t), x)

        def other():
            moved, inner, evaluations = self.solver.step(key, denoise, x, t, s, carry)
            return moved, inner, for_each_image(evaluations, x)

        return jax.lax.cond(s == 0, last, other)
