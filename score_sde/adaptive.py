"""Adaptive Runge–Kutta with a step size of its own for each image of a batch.

A step size from the norm over a whole batch would make an image depend on its neighbours. Here diffrax solves image by
image under `vmap`, while the vector field is still evaluated on the whole batch at once, each image at its own time.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from score_sde.pytree import pytree, static

State = Any  # a pytree of arrays with the batch axis first


class Solution(NamedTuple):
    """The final state, and per image the number of evaluations of the field."""

    y: State
    nfe: Int[Array, " b"]


@pytree
class Adaptive:
    """Tolerances of an adaptive solve: the error of a step is kept below atol + rtol |y|, by root mean square over an image.

    `method` is "dopri5" (RK45) or any explicit Runge–Kutta class of diffrax by its lower-case name; `max_steps` is a bound
    beyond which a solve is an error.

    Source: Hairer, Nørsett & Wanner, Solving ODEs I, Sec. II.4, through diffrax's PIDController.
    """

    rtol: float = 1e-5
    atol: float = 1e-5
    method: str = static(default="dopri5")
    max_steps: int = static(default=4096)

    def __post_init__(self):
        if not (self.rtol >= 0 and self.atol >= 0 and self.rtol + self.atol > 0):
            raise ValueError(f"Adaptive needs tolerances >= 0, not both 0, got rtol={self.rtol}, atol={self.atol}.")

    def solve(
        self, field: Callable[[Float[Array, " b"], State], State], y: State, t0: Float[Array, ""], t1: Float[Array, ""]
    ) -> Solution:
        """y(t1) of dy/dt = field(t, y) from y(t0) = `y`; t1 may lie before t0.

        `field` takes the whole batch, with a `[b]` vector of times, and treats its examples independently. The state of
        an image whose solve has ended is kept as it is while others go on.

        Raises: an `equinox` runtime error where `max_steps` is reached.
        Error: the global error is of the order of the tolerance; the order of the method is in diffrax's documentation.
        """
        import diffrax  # noqa: PLC0415  takes over a second to import

        solver = _method(diffrax, self.method)
        single = _evaluated_as_a_batch(field)
        # The controller compares like with like only in the state's own precision.
        controller = diffrax.PIDController(rtol=self.rtol, atol=self.atol)

        def solve_one(y0):
            solution = diffrax.diffeqsolve(
                diffrax.ODETerm(lambda t, y, _: single(t, y)),
                solver,
                t0,
                t1,
                dt0=None,
                y0=y0,
                stepsize_controller=controller,
                saveat=diffrax.SaveAt(t1=True),
                max_steps=self.max_steps,
                adjoint=diffrax.ForwardMode(),
            )
            return jax.tree.map(lambda leaf: leaf[0], solution.ys), solution.stats["num_steps"]

        y1, num_steps = jax.vmap(solve_one)(y)
        # Two evaluations choose the first step and one starts the first-same-as-last scheme.
        per_step = solver.tableau.num_stages - (1 if solver.tableau.fsal else 0)
        return Solution(y1, num_steps * per_step + 3)


def _method(diffrax, name: str):
    known = {m.lower(): m for m in ("Dopri5", "Dopri8", "Tsit5", "Bosh3", "Heun")}
    if name not in known:
        raise ValueError(f"Adaptive needs a method among {sorted(known)}, got {name!r}.")
    return getattr(diffrax, known[name])()


def _evaluated_as_a_batch(field: Callable) -> Callable:
    """single(t, y) for one image, of which a `vmap` calls `field` on the whole batch."""

    @jax.custom_batching.custom_vmap
    def single(t, y):
        return jax.tree.map(lambda leaf: leaf[0], field(t[None], jax.tree.map(lambda leaf: leaf[None], y)))

    @single.def_vmap
    def on_batch(axis_size, in_batched, t, y):
        def batch(leaf, batched):
            return leaf if batched else jnp.broadcast_to(leaf[None], (axis_size, *leaf.shape))

        out = field(batch(t, in_batched[0]), jax.tree.map(batch, y, in_batched[1]))
        return out, jax.tree.map(lambda _: True, out)

    return single
