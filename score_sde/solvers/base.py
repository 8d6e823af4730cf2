"""The solver protocol, and the base of solvers around a solver."""

import abc
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from score_sde.denoising.dynamics import Denoise, Evaluations
from score_sde.sdes.base import SDE

Batch = Float[Array, "b *shape"]
Keys = Key[Array, "*b"]
Scalar = Float[Array, ""]
Count = Int[Array, ""] | int
Times = Float[np.ndarray, " n"]
Step = tuple[Batch, Any, Evaluations]


class StepsLeft(NamedTuple):
    """The number of steps of the solve that are still to come, for a carry that treats the last steps differently.

    After a restart, a solver begins afresh in the middle of a solve. It then has the carry of
    `init`, except for this number.
    """

    number: Int[Array, ""]

    def after_a_step(self) -> "StepsLeft":
        return StepsLeft(self.number - 1)


class Solver(abc.ABC):
    """Moves x_t to x_s for s < t, given only (denoise, t, s): on any grid, for any SDE.

    A solver is a `@pytree` dataclass with the method `step`. A solver that carries a state from
    step to step also has `init`.
    """

    needs_finite_drift: ClassVar[bool] = False  # evaluates f(t) or g(t), which `Flow` and `Cosine` lack at t_max

    def check(self, sde: SDE, times: Times) -> None:
        """Raises ValueError where this solver cannot run on these times. A wrapper asks its own solver.

        The times may decrease, or increase from data to noise. Only `Restart` takes times that do
        both.
        """
        steps = np.diff(times)
        if np.any(steps > 0) and np.any(steps < 0):
            up = int(np.argmax(steps > 0))
            raise ValueError(
                f"{type(self).__name__} needs times that only go down, or only up, got a step from t={times[up]} up to "
                f"{times[up + 1]} among others down; on a grid WithRestarts use Restart({type(self).__name__}(…))."
            )
        if self.needs_finite_drift and not np.isfinite(sde.drift(jnp.asarray(times[0]))):
            raise ValueError(
                f"{type(self).__name__} needs a finite f(t), which {type(sde).__name__} lacks at t={times[0]}; start the "
                "grid below, as in Uniform(start=0.999), or use a solver such as DDIM or Ancestral."
            )

    def init(self, x: Batch, num_steps: Count) -> Any:
        """The carry before the first of `num_steps` steps."""
        return ()

    @abc.abstractmethod
    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        """(x_s, carry, evaluations) from x_t, with s < t.

        `key` is one key for the batch, or one key for each image. The evaluations are the sum of
        `denoise.evaluations` over the calls that the step makes: one number, or one for each image.
        """

    def chooses_steps(self) -> bool:
        """Whether the solver chooses its steps while it runs.

        Such a solver may give up on an image, and it has no reverse-mode derivative.
        """
        return False

    def raise_failures(self, failed: Bool[Array, " b"]) -> None:  # noqa: B027  most solvers never give up
        """Raises RuntimeError, with the remedy, if a solver that chooses its steps gave up on an image."""


class Wrapper(Solver):
    """A solver around `solver`. Its carry is the carry of `solver`, plus whatever the wrapper adds."""

    solver: Solver

    def check(self, sde: SDE, times: Times) -> None:
        self.solver.check(sde, times)

    def chooses_steps(self) -> bool:
        return self.solver.chooses_steps()

    def raise_failures(self, failed: Bool[Array, " b"]) -> None:
        self.solver.raise_failures(failed)

    def init(self, x: Batch, num_steps: Count) -> Any:
        return self.solver.init(x, num_steps)


def for_each_image(evaluations: Evaluations, x: Batch) -> Int[Array, " b"]:
    """The evaluations of a step as one number for each image.

    The branches of `jax.lax.cond` need it: their results must have the same shape.
    """
    return jnp.broadcast_to(jnp.asarray(evaluations, jnp.int32), x.shape[:1])
