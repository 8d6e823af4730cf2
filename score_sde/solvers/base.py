"""The solver protocol, and the base of solvers around a solver."""

import abc
from typing import Any, ClassVar

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


class Solver(abc.ABC):
    """Moves x_t to x_s for s < t, given only (denoise, t, s): any grid, any SDE.

    A member is a `@pytree` dataclass with `step`, and with `init` if it carries a state from step to step.
    """

    needs_finite_drift: ClassVar[bool] = False  # evaluates f(t) or g(t), which `Flow` and `Cosine` lack at t_max

    def check(self, sde: SDE, times: Times) -> None:
        """Raises ValueError where this solver cannot run on these times; a wrapper asks what it wraps.

        They may go down, or up from data to noise, but not both, unless there is a `Restart`.
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

        `key` is one key, or one for each image. The evaluations are the sum of `denoise.evaluations` over the calls that
        the step makes, for all images or for each.
        """

    def chooses_steps(self) -> bool:
        """Whether it chooses its steps while it runs: such a solver may give images up, and has no reverse mode."""
        return False

    def raise_failures(self, failed: Bool[Array, " b"]) -> None:  # noqa: B027  most solvers give nothing up
        """Raises RuntimeError, with what to do, if a solver that chooses its steps has given images up."""


class Wrapper(Solver):
    """A solver around `solver`. Its carry is that of `solver`, and what it adds itself."""

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
    """The evaluations of a step as one number for each image: for branches, whose results have one shape."""
    return jnp.broadcast_to(jnp.asarray(evaluations, jnp.int32), x.shape[:1])
