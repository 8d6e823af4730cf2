"""The solver protocol and `sample`, the only sampling loop."""

import abc
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt

from score_sde.dynamics import Denoise, Evaluations
from score_sde.function_denoiser import as_denoise, needs_denoiser
from score_sde.pytree import is_traced
from score_sde.sdes.base import SDE
from score_sde.solvers import noise
from score_sde.solvers.grids import Grid, padded_steps

Batch = Float[Array, "b *shape"]
Keys = Key[Array, "*b"]
Scalar = Float[Array, ""]
Count = Int[Array, ""] | int
Times = Float[np.ndarray, " n"]
Step = tuple[Batch, Any, Evaluations]


class Samples(NamedTuple):
    """`x` and, image by image, the number of network evaluations that it took.

    `trajectory` holds the states at the steps that `sample` was asked to keep, or is None.
    """

    x: Batch
    nfe: Int[Array, " b"]
    trajectory: Float[Array, "k b *shape"] | None = None


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


class Wrapper(Solver):
    """A solver around `solver`. Its carry is that of `solver`, and what it adds itself."""

    solver: Solver

    def check(self, sde: SDE, times: Times) -> None:
        self.solver.check(sde, times)

    def init(self, x: Batch, num_steps: Count) -> Any:
        return self.solver.init(x, num_steps)


def for_each_image(evaluations: Evaluations, x: Batch) -> Int[Array, " b"]:
    """The evaluations of a step as one number for each image: for branches, whose results have one shape."""
    return jnp.broadcast_to(jnp.asarray(evaluations, jnp.int32), x.shape[:1])


@needs_denoiser
def sample(
    key: Key[Array, ""],
    denoise: Denoise,
    solver: Solver,
    grid: Grid,
    shape: tuple[int, ...],
    *,
    first_index: int = 0,
    x_start: Batch | Float[np.ndarray, "b *shape"] | None = None,
    keep: tuple[int, ...] = (),
    sharding: jax.sharding.NamedSharding | None = None,
) -> Samples:
    """Solves the SDE of `denoise` from x ~ prior at the grid's first time to its last, as one compiled program.

    Image i draws everything from fold_in(key, first_index + i): in batches of one size it is the same to the bit, in
    others to rounding. Steps, times and the fields of `solver` and `denoise` (where they are pytrees, as ours are) are
    traced: up to 1024 steps (then 2048, 4096 …) changing them compiles nothing.

    The prior is N(0, (prior_std · σ(start)/σ(t_max))² I), which is the SDE's own for a grid that starts at t_max.

    Args:
      shape: (number of images, *shape of one image).
      first_index: index of the first image, for drawing a large set in batches.
      x_start: where to start instead of the prior, at the grid's first time.
      keep: steps, increasing, after which the state is kept in `trajectory`: 0 is the start, num_steps the end.
      sharding: how the batch lies over devices; None leaves it to XLA (one device, or as the arguments lie).
    Raises: ValueError for a grid outside of [0, t_max], a wrong shape, steps to keep that are not on the grid, a solver
      that cannot run on these times, or (not within jit) NaN from a time where α = 0, at which `Epsilon` and the scores
      do not say what x0 is.
    """
    sde = denoise.sde
    times = grid.times(sde)
    num_steps = len(times) - 1
    solver.check(sde, times)
    _check(shape, x_start, keep, num_steps)
    padded = np.pad(times, (0, padded_steps(num_steps) - num_steps), mode="edge")
    kept_steps = np.asarray(keep, np.int32)
    samples = _solve(
        key,
        as_denoise(denoise),
        solver,
        padded,
        np.int32(num_steps),
        np.uint32(first_index),
        x_start,
        kept_steps,
        tuple(shape),
        sharding,
    )
    _check_signal(sde, times.max(), samples.x)
    return samples


def _check_signal(sde, highest, x):
    """Only where α = 0 at the highest time is the result waited for: elsewhere x̂0 can always be known."""
    if is_traced((sde, x)) or sde.alpha(jnp.asarray(highest)) > 0 or jnp.all(jnp.isfinite(x)):
        return
    raise ValueError(
        f"This solve gave NaN, and its grid has t={highest}, where {type(sde).__name__} has α = 0: there x0 cannot be read "
        "from eps, score or scaled_score. Use the parameterization v, flow, edm or x0, or start the grid below, as in "
        "Uniform(start=0.999)."
    )


def _check(shape, x_start, keep, num_steps):
    if len(shape) < 2 or min(shape) < 1:
        raise ValueError(f"shape needs (number of images, *shape of one image), all at least 1, got {shape}.")
    if x_start is not None and x_start.shape != tuple(shape):
        raise ValueError(f"x_start needs the shape {tuple(shape)}, got {x_start.shape}.")
    if list(keep) != sorted(set(keep)) or (keep and not 0 <= keep[0] <= keep[-1] <= num_steps):
        raise ValueError(f"keep needs increasing steps from 0 to num_steps={num_steps}, got {keep}.")


def _image_keys(key: Key[Array, ""], first_index: UInt[Array, ""], number: int) -> Key[Array, " b"]:
    """fold_in(key, index) for each image."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(first_index + jnp.arange(number, dtype=jnp.uint32))


def start_std(sde: SDE, start: Float[Array, ""]) -> Float[Array, ""]:
    """prior_std · σ(start)/σ(t_max): the prior's standard deviation, carried from t_max in proportion to σ."""
    return sde.prior_std() * sde.sigma(start) / sde.sigma(jnp.asarray(sde.t_max, start.dtype))


def _prior(keys, sde, start, shape):
    """x ~ N(0, start_std² I)."""
    return start_std(sde, start) * noise.standard_normal(noise.fold_in(keys, 0), jnp.zeros(shape, start.dtype))


def _solve_traced(key, denoise, solver, times, num_steps, first_index, x_start, kept_steps, shape, sharding):
    keys = _image_keys(key, first_index, shape[0])
    x_start = _prior(keys, denoise.sde, times[0], shape) if x_start is None else x_start.astype(times.dtype)
    if sharding is not None:
        keys, x_start = jax.lax.with_sharding_constraint((keys, x_start), sharding)
    number_kept = kept_steps.shape[0]

    def body(k, state):
        x, carry, nfe, kept = state
        step_key = noise.fold_in(keys, k + 1)
        x, carry, evaluations = solver.step(step_key, denoise, x, times[k], times[k + 1], carry)
        if number_kept:
            slot = jnp.searchsorted(kept_steps, k + 1)
            slot = jnp.where(kept_steps[slot] == k + 1, slot, number_kept)
            kept = kept.at[slot].set(x, mode="drop")
        return x, carry, nfe + for_each_image(evaluations, x), kept

    kept = jnp.broadcast_to(x_start[None], (number_kept, *shape))
    state = x_start, solver.init(x_start, num_steps), jnp.zeros(shape[0], jnp.int32), kept
    x, _, nfe, kept = jax.lax.fori_loop(0, num_steps, body, state)
    return Samples(x, nfe, kept if number_kept else None)


_solve = jax.jit(_solve_traced, static_argnames=("shape", "sharding"))
