"""DPM-Solver-fast: singlestep DPM-Solver whose order varies, so that a solve makes a given number of evaluations."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from score_sde.denoising.dynamics import Denoise
from score_sde.internal.pytree import pytree, static
from score_sde.solvers.base import Batch, Count, Keys, Scalar, Solver, Step, StepsLeft
from score_sde.solvers.integrators import PREDICTIONS, ddim, require_one_of, rise
from score_sde.solvers.ode.dpm_solver import TYPES, neighbouring_orders, usual_fractions


@pytree
class DPMSolverFast(Solver):
    """Steps of order 3, with lower orders at the end to make a given number of evaluations.

    The last two steps have the orders 2 and 1 for `remainder` 0. The last step has the order 1 for
    `remainder` 1, and the order 2 for `remainder` 2. For K evaluations, take a grid of ⌊K/3⌋ + 1
    steps (`LogSNRUniform` in the paper) and remainder = K mod 3. Each step is a step of `DPMSolver`
    with its usual r1 and r2. With `AncestralSteps` it is k-diffusion's sample_dpm_fast with η. That
    sampler adds no noise in the last step, where σ = 0 leaves no room for it.

    Args:
      remainder: the number of evaluations modulo 3: 0, 1 or 2.
      predicts: "eps" for DPM-Solver, "x0" for DPM-Solver++.
      solver_type: "dpmsolver" or "taylor", as in `DPMSolver`.
    Error: order 3 in steps of log(α/σ) for remainder 2; else order 2, because of the last step.
    Raises: ValueError unless remainder is 0, 1 or 2, or for an unknown type or answer.
    Source: Lu et al., arXiv 2206.00927, App. D.3; "singlestep" of order 3 in the authors' code.
    """

    remainder: Count = 0
    predicts: str = static(default="eps")
    solver_type: str = static(default="dpmsolver")

    def __post_init__(self):
        require_one_of("solver_type", self.solver_type, TYPES, self)
        require_one_of("predicts", self.predicts, PREDICTIONS, self)
        if self.remainder not in (0, 1, 2):
            raise ValueError(f"DPMSolverFast needs remainder 0, 1 or 2, got remainder={self.remainder}.")

    def init(self, x: Batch, num_steps: Count) -> StepsLeft:
        return StepsLeft(jnp.asarray(num_steps, jnp.int32))

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        sde = denoise.sde
        left, estimate, h = carry, denoise(x, t), rise(sde, t, s)

        def first():
            return ddim(sde, estimate, s), jnp.zeros((), jnp.int32)

        def higher(order):
            fields = order, *usual_fractions(order), self.predicts, self.solver_type

            def step():
                _, x, between = neighbouring_orders(denoise, estimate, t, s, h, *fields)
                return x, jnp.asarray(between, jnp.int32)

            return step

        order = jnp.where(jnp.isfinite(h), self._order(left.number), 1)
        x, between = jax.lax.switch(order - 1, (first, higher(2), higher(3)))
        return x, left.after_a_step(), denoise.evaluations(t) + between

    def _order(self, left: Int[Array, ""]) -> Int[Array, ""]:
        # remainder 0: orders … 3, 3, 2, 1, which are the steps left, at most 3. Otherwise 3, and
        # `remainder` in the last step.
        remainder = jnp.asarray(self.remainder, left.dtype)
        return jnp.clip(jnp.where(remainder == 0, left, jnp.where(left == 1, remainder, 3)), 1, 3)
