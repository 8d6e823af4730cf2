"""The solver protocol and `sample`, the only sampling loop."""

import abc
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from score_sde.dynamics import Denoise
from score_sde.parameterizations import Estimate
from score_sde.pytree import as_pytree, pytree
from score_sde.sdes.base import SDE, Time
from score_sde.solvers.grids import Grid
from score_sde.solvers.noise import standard_normal

MAX_STEPS = 1024  # grids up to this length share one compiled program; longer ones go up by powers of two


class Samples(NamedTuple):
    """`x` and, image by image, the number of network evaluations that it took.

    `trajectory` holds the states at the times that `sample` was asked to keep, or None.
    """

    x: Float[Array, "b *shape"]
    nfe: Int[Array, " b"]
    trajectory: Float[Array, "k b *shape"] | None = None


class Solver(abc.ABC):
    """Moves x_t to x_s for s < t, given only (sde, denoise, t, s): any grid, any SDE.

    A member is a `@pytree` dataclass with `step`, and with `init` if it carries a state from step to step.
    """

    needs_finite_drift: ClassVar[bool] = False  # evaluates f(t) or g(t), which `Flow` and `Cosine` lack at t_max

    def init(self, x: Float[Array, "b *shape"]) -> Any:
        """The carry before the first step."""
        return ()

    @abc.abstractmethod
    def step(
        self,
        key: Key[Array, "*b"],
        sde: SDE,
        denoise: Denoise,
        x: Float[Array, "b *shape"],
        t: Float[Array, ""],
        s: Float[Array, ""],
        carry: Any,
    ) -> tuple[Float[Array, "b *shape"], Any]:
        """(x_s, carry) from x_t, with s < t. `key` is one key, or one for each image."""

    def evaluations(self, calls: int, s: Float[Array, ""], carry: Any) -> Int[Array, "*b"] | int:
        """Network evaluations of a step that ended at s with this carry.

        `calls` is how often the traced step calls `denoise`; a solver that skips or repeats some at run time corrects it.
        """
        return calls


class _Counter:
    """Counts the calls of `denoise` while a step is traced."""

    def __init__(self, denoise: Denoise):
        self.denoise, self.calls = denoise, 0

    def __call__(self, x: Float[Array, "b *shape"], t: Time) -> Estimate:
        self.calls += 1
        return self.denoise(x, t)


def sample(
    key: Key[Array, ""],
    sde: SDE,
    denoise: Denoise,
    solver: Solver,
    grid: Grid,
    shape: tuple[int, ...],
    *,
    first_index: int = 0,
    x_start: Float[Array, "b *shape"] | None = None,
    keep: tuple[int, ...] = (),
) -> Samples:
    """Solves from x ~ prior at the grid's first time to its last, as one compiled program.

    Image i draws everything from fold_in(key, first_index + i): it is the same image in any batch. Steps, times and the
    fields of `sde`, `solver` and `denoise` (where they are pytrees, as ours are) are traced: up to `MAX_STEPS` steps,
    changing them compiles nothing.

    Args:
      shape: (number of images, *shape of one image).
      first_index: index of the first image, for drawing a large set in batches.
      x_start: where to start instead of the prior, at the grid's first time.
      keep: steps after which the state is kept in `trajectory`: 0 is the start, num_steps the end.
    Raises: ValueError for a grid outside of (0, t_max], a wrong shape, a step to keep that is not on the grid, or a
      solver that needs a finite drift on a grid that starts where it is infinite.
    """
    times = grid.times(sde)
    num_steps = len(times) - 1
    _check(sde, solver, grid, times, shape, x_start, keep)
    length = MAX_STEPS
    while length < num_steps:
        length *= 2
    padded = jnp.pad(times, (0, length - num_steps), mode="edge")
    return _solve(
        key, sde, as_pytree(denoise), solver, padded, num_steps, first_index, x_start, jnp.asarray(keep, jnp.int32), shape
    )


def _check(sde, solver, grid, times, shape, x_start, keep):
    if len(shape) < 2 or min(shape) < 1:
        raise ValueError(f"shape needs (number of images, *shape of one image), all at least 1, got {shape}.")
    if x_start is not None and x_start.shape != tuple(shape):
        raise ValueError(f"x_start needs the shape {tuple(shape)}, got {x_start.shape}.")
    if keep and not all(0 <= k <= len(times) - 1 for k in keep):
        raise ValueError(f"keep needs steps from 0 to num_steps={len(times) - 1}, got {keep}.")
    if solver.needs_finite_drift and not jnp.isfinite(sde.drift(times[0])):
        raise ValueError(
            f"{type(solver).__name__} evaluates f(t), which is infinite at t={times[0]} for {type(sde).__name__}; start "
            f"the grid below, as in {type(grid).__name__}(start=0.999), or use a solver such as DDIM or Ancestral."
        )


def _image_keys(key: Key[Array, ""], first_index: Int[Array, ""], number: int) -> Key[Array, " b"]:
    """fold_in(key, index) for each image."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(first_index + jnp.arange(number))


def _solve_traced(key, sde, denoise, solver, times, num_steps, first_index, x_start, keep, shape):
    keys = _image_keys(key, first_index, shape[0])
    if x_start is None:
        prior = jnp.zeros(shape, times.dtype)
        x_start = sde.prior_std().astype(times.dtype) * standard_normal(keys, prior)

    def body(k, state):
        x, carry, nfe, kept = state
        t, s = times[k], times[k + 1]
        counter = _Counter(denoise)
        step_keys = jax.vmap(lambda image_key: jax.random.fold_in(image_key, k + 1))(keys)
        x, carry = solver.step(step_keys, sde, counter, x, t, s, carry)
        nfe = nfe + solver.evaluations(counter.calls, s, carry)
        kept = jnp.where((keep == k + 1).reshape(-1, *(1,) * x.ndim), x[None], kept)
        return x, carry, nfe, kept

    kept = jnp.broadcast_to(x_start[None], (keep.shape[0], *shape))
    state = x_start, solver.init(x_start), jnp.zeros(shape[0], jnp.int32), kept
    x, _, nfe, kept = jax.lax.fori_loop(0, num_steps, body, state)
    return Samples(x, nfe, kept if keep.shape[0] else None)


_solve = jax.jit(_solve_traced, static_argnames=("shape",))
