"""Adaptive Runge–Kutta with a step size of its own for each image of a batch.

A step size from the norm over a whole batch would make an image depend on its neighbours. Here diffrax solves image by
image under `vmap`, while the vector field is still evaluated on the whole batch at once, each image at its own time.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from score_sde.broadcast import expand_like
from score_sde.pytree import pytree, static

State = Any  # a pytree of arrays with the batch axis first
Field = Callable[[Float[Array, " b"], State], State]

METHODS = {"bosh3": "Bosh3", "dopri5": "Dopri5", "dopri8": "Dopri8", "heun": "Heun", "tsit5": "Tsit5"}


class Solution(NamedTuple):
    """The final state, and the number of evaluations of the field that each image would need alone."""

    y: State
    nfe: Int[Array, " b"]


@pytree
class Adaptive:
    """Tolerances of an adaptive solve: the error of a step stays below atol + rtol |y|, by root mean square over an image.

    `method` is "dopri5" (RK45) or another key of `METHODS`; a solve of more than `max_steps` steps is an error.

    Raises: ValueError unless rtol >= 0, atol > 0 and max_steps >= 1, or for an unknown method.
    Source: Hairer, Nørsett & Wanner, Solving ODEs I, Sec. II.4, through diffrax's PIDController.
    """

    rtol: float = 1e-5
    atol: float = 1e-5
    method: str = static(default="dopri5")
    max_steps: int = static(default=4096)

    def __post_init__(self):
        if not (self.rtol >= 0 and self.atol > 0):  # a state may be 0, as a log-determinant is at the start
            raise ValueError(f"Adaptive needs rtol >= 0 and atol > 0, got rtol={self.rtol}, atol={self.atol}.")
        if self.method not in METHODS:
            raise ValueError(f"Adaptive needs a method among {', '.join(METHODS)}, got {self.method!r}.")
        if self.max_steps < 1:
            raise ValueError(f"Adaptive needs max_steps >= 1, got {self.max_steps}.")

    def solve(self, field: Field, y: State, t0: Float[Array, ""], t1: Float[Array, ""]) -> Solution:
        """y(t1) of dy/dt = field(t, y) from y(t0) = `y`, as `solve` does it."""
        return solve(field, y, t0, t1, self.rtol, self.atol, self.method, self.max_steps)


def solve(
    field: Field,
    y: State,
    t0: Float[Array, ""],
    t1: Float[Array, ""],
    rtol: Float[Array, ""] | float,
    atol: Float[Array, ""] | float,
    method: str,
    max_steps: int,
) -> Solution:
    """y(t1) of dy/dt = field(t, y) from y(t0) = `y`; t1 may lie before t0.

    `field` takes the whole batch, with a `[b]` vector of times, and treats its examples independently. The state of an
    image whose solve has ended is kept as it is while others go on.

    Raises: RuntimeError when the program runs, where an image needs more than `max_steps` steps or its field is not
      finite; of several processes only the first raises, and in all such an image is NaN.
    Error: the global error is of the order of the tolerance; the order of the method is in diffrax's documentation.
    """
    import diffrax  # takes over a second to import

    solver = getattr(diffrax, METHODS[method])()
    single = _evaluated_as_a_batch(field, y, t0)
    controller = diffrax.PIDController(rtol=rtol, atol=atol)

    def solve_one(y0, dt0):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, _: single(jnp.asarray(t), y)),
            solver,
            t0,
            t1,
            dt0=dt0,
            y0=y0,
            stepsize_controller=controller,
            saveat=diffrax.SaveAt(t1=True),
            max_steps=max_steps,
            adjoint=diffrax.ForwardMode(),
            throw=False,
        )
        failed = solution.result != diffrax.RESULTS.successful
        return jax.tree.map(lambda leaf: leaf[0], solution.ys), solution.stats["num_steps"], failed

    first_steps = _first_steps(field, y, t0, t1, rtol, atol, solver.error_order(None))
    y1, num_steps, failed = jax.vmap(solve_one)(y, first_steps)
    broken = raise_if(failed, rtol, atol, method, max_steps)
    y1 = jax.tree.map(lambda leaf: expand_like(broken, leaf).astype(leaf.dtype) + leaf, y1)
    # Two evaluations choose the first step; where a step's last stage is the next one's first, the very first is extra.
    fsal = int(solver.tableau.fsal)
    return Solution(y1, num_steps.astype(jnp.int32) * (solver.tableau.num_stages - fsal) + 2 + fsal)


def _first_steps(field, y, t0, t1, rtol, atol, order):
    """The first step of each image, for which 0.01 is about the error, signed towards t1.

    diffrax chooses only 0.01 for a solve within vmap: too long by orders of magnitude next to t = 0.

    Source: Hairer, Nørsett & Wanner, Sec. II.4, algorithm "starting step size".
    """
    length = jnp.abs(t1 - t0)
    scale = jax.tree.map(lambda leaf: atol + rtol * jnp.abs(leaf), y)

    def size(f):
        return _rms(jax.tree.map(jnp.divide, f, scale))

    def guess(f):
        small = (size(y) < 1e-5) | (size(f) < 1e-5)
        return jnp.minimum(jnp.where(small, 1e-6, 0.01 * size(y) / jnp.where(small, 1.0, size(f))), length)

    def evaluate(state, _):
        offset, slope, _ = state
        f = field(t0 + offset, jax.tree.map(lambda leaf, d: leaf + expand_like(offset, leaf) * d, y, slope))
        return (jnp.sign(t1 - t0) * guess(f), f, slope), None

    # A loop of two, so that the field is compiled once: f at t0, then f a guessed step further.
    zero = jax.tree.map(jnp.zeros_like, y)
    start = jnp.zeros_like(size(y)), zero, zero
    (_, second, first), _ = jax.lax.scan(evaluate, start, None, length=2)
    short = guess(first)
    curvature = size(jax.tree.map(jnp.subtract, second, first)) / short
    largest = jnp.maximum(size(first), curvature)
    flat = largest <= 1e-15
    long = jnp.where(flat, jnp.maximum(1e-6, 1e-3 * short), (0.01 / jnp.where(flat, 1.0, largest)) ** (1 / order))
    return jnp.sign(t1 - t0) * jnp.minimum(jnp.minimum(100 * short, long), length)


def raise_if(failed: Bool[Array, " b"], rtol, atol, method: str, max_steps: int) -> Float[Array, " b"]:
    """Ends the program with an error unless every image reached t1; 0, or NaN for those that did not.

    The result has to be used: a callback without effects, which `vmap` and `cond` allow, is dropped with its result.
    """

    def report(number, rtol, atol):
        if number:  # a vmap runs both branches of the cond below
            raise RuntimeError(
                f"Adaptive did not reach the end for {number} of {failed.size} images within max_steps={max_steps} steps "
                f"of {method} at rtol={rtol:.3g}, atol={atol:.3g}; raise the tolerances or max_steps, stop further from "
                "a time where the field is singular, or look for a NaN from the network."
            )
        return np.float32(0)

    number, zero = jnp.sum(failed), jax.ShapeDtypeStruct((), jnp.float32)
    tolerances = jnp.asarray(rtol), jnp.asarray(atol)
    raised = jax.lax.cond(
        number > 0,
        lambda: jax.pure_callback(report, zero, number, *tolerances, vmap_method="sequential"),
        lambda: jnp.zeros((), jnp.float32),
    )
    return raised + jnp.where(failed, jnp.nan, 0.0)


def _rms(y: State) -> Float[Array, " b"]:
    """The root mean square of each image over all leaves of the state."""
    leaves = [leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(y)]
    return jnp.sqrt(sum(jnp.sum(leaf**2, axis=1) for leaf in leaves) / sum(leaf.shape[1] for leaf in leaves))


def _evaluated_as_a_batch(field: Field, y: State, t: Float[Array, ""]) -> Callable[[Float[Array, ""], State], State]:
    """single(t, y) for one image, of which a `vmap` calls `field` on the whole batch.

    A function with a rule of its own under `vmap` may close over no tracer, and `field` closes over the network's
    parameters. So it is traced once, and what it closes over is passed to it.
    """
    size = jax.tree.leaves(y)[0].shape[0]
    traced, shapes = jax.make_jaxpr(field, return_shape=True)(jnp.broadcast_to(t, (size,)), y)

    def batch(leaf, batched):
        return leaf if batched else jnp.broadcast_to(leaf[None], (size, *leaf.shape))

    @jax.custom_batching.custom_vmap
    def single(constants, t, y):
        unbatched = jax.tree.map(lambda _: False, (t, y))
        return jax.tree.map(lambda leaf: leaf[0], on_batch(size, [constants, *unbatched], constants, t, y)[0])

    @single.def_vmap
    def on_batch(_, in_batched, constants, t, y):
        leaves = jax.tree.leaves(jax.tree.map(batch, y, in_batched[2]))
        out = jax.core.eval_jaxpr(traced.jaxpr, constants, batch(t, in_batched[1]), *leaves)
        return jax.tree.unflatten(jax.tree.structure(shapes), out), jax.tree.map(lambda _: True, shapes)

    return lambda t, y: single(traced.consts, t, y)
