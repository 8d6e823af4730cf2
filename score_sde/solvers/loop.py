"""`sample`, the only sampling loop: a solver on a grid, from the prior to data."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, UInt

from score_sde.denoising.dynamics import Denoise
from score_sde.denoising.function_denoiser import as_denoise, needs_denoiser
from score_sde.denoising.memory import has_memory, remembering
from score_sde.internal.per_example import Weight, is_finite
from score_sde.internal.pytree import is_traced
from score_sde.sdes.base import SDE
from score_sde.solvers import noise
from score_sde.solvers.base import Batch, Solver, Times, for_each_image
from score_sde.solvers.grids import Grid
from score_sde.solvers.grids.base import padded_steps


class Samples(NamedTuple):
    """The result of `sample`.

    Attributes:
      x: the images.
      nfe: the number of network evaluations of each image.
      trajectory: the states after the steps in `keep`, or None.
      failed: images that are not finite. Where an adaptive solver gave up on an image, `sample`
        raises an error, except within `jit` and `vmap`, where the image is only flagged. For other
        solvers the NaN comes from the network, and the image is only flagged.
    """

    x: Batch
    nfe: Int[Array, " b"]
    trajectory: Float[Array, "k b *shape"] | None
    failed: Bool[Array, " b"]


@needs_denoiser
def sample(
    key: Key[Array, ""],
    denoise: Denoise,
    solver: Solver,
    grid: Grid,
    shape: tuple[Any, ...],
    *,
    first_index: int | UInt[Array, ""] = 0,
    x_start: Batch | Float[np.ndarray, "b *shape"] | None = None,
    keep: tuple[int, ...] = (),
    sharding: jax.sharding.NamedSharding | None = None,
    differentiable: bool = False,
) -> Samples:
    """Solves the SDE of `denoise` on the grid, from x ~ prior at its first time, in one compiled program.

    Image i draws everything from fold_in(key, first_index + i). The same place in batches of the
    same size gives the same bits. Elsewhere the image agrees to rounding.

    The program is compiled once for up to 1024 steps, then again for 2048, 4096 and so on. A change
    of the number of steps, of the times, or of the fields of `solver` and `denoise` compiles
    nothing. This holds for solvers and denoisers that are pytrees, as all of this library are.

    The prior is N(0, (prior_std · σ(start)/σ(t_max))² I). For a grid that starts at t_max it is the
    prior of the SDE.

    `sample` may be called within `jit`, `vmap` and `jax.export`, and `denoise` may be an argument
    of the transformed function. The grid and the counts of the solver are then constants.
    Forward-mode derivatives need no option.

    Args:
      shape: (number of images, *shape of one image). The number may be a symbol of `jax.export`.
      first_index: index of the first image, for drawing a large set in batches.
      x_start: the state at the grid's first time, instead of a draw from the prior.
      keep: increasing step numbers after which `trajectory` keeps the state: 0 is the start, and
        num_steps is the end.
      sharding: how the batch lies over devices. None leaves the choice to XLA (one device, or as
        the arguments lie).
      differentiable: whether the solve has a reverse mode (`jax.grad`). The solve then stores the
        state of each step, and computes the step again on the way back. Each number of steps then
        compiles its own program.
    Raises: ValueError for a grid outside of [0, t_max], a wrong shape, or steps in `keep` that are
      not on the grid. ValueError for a solver that cannot run on these times or has no reverse
      mode. TypeError for a grid that must know an SDE which is traced. Outside of `jit` also:
      RuntimeError where an adaptive solver gives up. ValueError for NaN from a time with α = 0,
      where `Epsilon` and the scores do not determine x0.
    """
    sde = denoise.sde
    times = _times(grid, solver, sde)
    num_steps = len(times) - 1
    _check(shape, x_start, keep, num_steps)
    _check_reverse_mode(solver, denoise, differentiable)
    first = first_index if isinstance(first_index, jax.Array) else np.uint32(first_index)
    rest = first, x_start, np.asarray(keep, np.int32), tuple(shape), sharding
    if differentiable:
        samples = _solve_by_scan(key, as_denoise(denoise), *_counts_apart(solver), times, *rest)
    else:
        # The times are padded to a common length, so that solves of different lengths share a program.
        pad = jnp.pad if is_traced(times) else np.pad
        padded = pad(times, (0, padded_steps(num_steps) - num_steps), mode="edge")
        samples = _solve(key, as_denoise(denoise), solver, padded, np.int32(num_steps), *rest)
    if not is_traced((sde, times, samples)):
        solver.raise_failures(samples.failed)
        _check_signal(sde, times.max(), samples.failed)
    return samples


def _times(grid: Grid, solver: Solver, sde: SDE) -> Times | Float[Array, " n"]:
    """The grid's times, checked. In a transformation they are constants, unless the SDE is traced."""
    if is_traced(grid):
        raise TypeError(
            f"{type(grid).__name__} is traced here, but its numbers must be known. Let the transformed function close over "
            "the grid, instead of taking it as an argument."
        )
    if is_traced(sde):
        return grid.traced_times(sde)
    with jax.ensure_compile_time_eval():
        times = grid.times(sde)
        if not is_traced(solver):
            solver.check(sde, times)
    return times


def _check_signal(sde, highest, failed):
    """Raises ValueError for NaN from a grid that starts where α = 0.

    Only there does the check wait for the result. At any other time, every parameterization gives
    x̂0.
    """
    if sde.alpha(jnp.asarray(highest)) > 0 or not jnp.any(failed):
        return
    raise ValueError(
        f"This solve gave NaN, and its grid has t={highest}, where {type(sde).__name__} has α = 0. There x0 cannot be read "
        "from eps, score or scaled_score. Use the parameterization v, flow, edm or x0, or start the grid below, as in "
        "Uniform(start=0.999)."
    )


def _check(shape, x_start, keep, num_steps):
    """Raises ValueError for a wrong shape, and for steps in `keep` that are not on the grid."""
    if len(shape) < 2 or any(size < 1 for size in shape):
        raise ValueError(f"shape needs (number of images, *shape of one image), all at least 1, got {shape}.")
    if x_start is not None and x_start.shape != tuple(shape):
        raise ValueError(f"x_start needs the shape {tuple(shape)}, got {x_start.shape}.")
    if list(keep) != sorted(set(keep)) or (keep and not 0 <= keep[0] <= keep[-1] <= num_steps):
        raise ValueError(f"keep needs increasing steps from 0 to num_steps={num_steps}, got {keep}.")


def _check_reverse_mode(solver, denoise, differentiable):
    if differentiable and has_memory(denoise):
        raise ValueError(
            "This denoiser keeps something from call to call, as guidance with momentum does, so that the solve has no reverse "
            "mode; with differentiable=True set momentum=None."
        )
    if differentiable and solver.chooses_steps():
        raise ValueError(
            f"{type(solver).__name__} chooses its steps while it runs, so it has no reverse mode. With "
            "differentiable=True use a solver that takes the grid's steps, such as Heun or DPMSolverPP2M."
        )


def _image_keys(key: Key[Array, ""], first_index: UInt[Array, ""], number: Any) -> Key[Array, " b"]:
    """fold_in(key, index) for each image."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(first_index + jnp.arange(number, dtype=jnp.uint32))


def start_std(sde: SDE, start: Float[Array, ""]) -> Float[Array, ""]:
    """prior_std · σ(start)/σ(t_max): the prior's standard deviation, carried from t_max in proportion to σ."""
    return sde.prior_std() * sde.sigma(start) / sde.sigma(jnp.asarray(sde.t_max, start.dtype))


def _prior(keys, sde, start, shape):
    """x = start_std ε, with the noise ε of the SDE."""
    return start_std(sde, start) * sde.noise(noise.fold_in(keys, 0), shape, start.dtype)


def _start(key, denoise, solver, times, num_steps, first_index, x_start, kept_steps, shape, sharding):
    """(the images' keys, the state before the first step)."""
    keys = _image_keys(key, first_index, shape[0])
    x_start = _prior(keys, denoise.sde, times[0], shape) if x_start is None else x_start.astype(times.dtype)
    if sharding is not None:
        keys, x_start = jax.lax.with_sharding_constraint((keys, x_start), sharding)
    kept = jnp.broadcast_to(x_start[None], (kept_steps.shape[0], *shape))
    return keys, (x_start, solver.init(x_start, num_steps), jnp.zeros(shape[0], jnp.int32), kept)


def _step(keys, denoise, solver, kept_steps, k, t, s, state):
    """The state after step k, from t to s."""
    x, carry, nfe, kept = state
    x, carry, evaluations = solver.step(noise.fold_in(keys, k + 1), denoise, x, t, s, carry)
    if number_kept := kept_steps.shape[0]:
        slot = jnp.searchsorted(kept_steps, k + 1)
        # A step that is not kept gets a slot past the end, and mode="drop" writes nothing there.
        slot = jnp.where(kept_steps[slot] == k + 1, slot, number_kept)
        kept = kept.at[slot].set(x, mode="drop")
    return x, carry, nfe + for_each_image(evaluations, x), kept


def _samples(state, weight: Weight) -> Samples:
    x, _, nfe, kept = state
    return Samples(x, nfe, kept if kept.shape[0] else None, ~is_finite(x, weight))


def _solve_traced(key, denoise, solver, times, num_steps, first_index, x_start, kept_steps, shape, sharding):
    keys, state = _start(key, denoise, solver, times, num_steps, first_index, x_start, kept_steps, shape, sharding)
    denoise = remembering(denoise, state[0])

    def body(k, state):
        return _step(keys, denoise, solver, kept_steps, k, times[k], times[k + 1], state)

    return _samples(jax.lax.fori_loop(0, num_steps, body, state), denoise.weight)


def _solve_by_scan_traced(
    key, denoise, numbers, counts, structure, times, first_index, x_start, kept_steps, shape, sharding
):
    """The solve as a loop that has a reverse mode. Its number of steps is part of the program."""
    solver = _together(numbers, counts, structure)
    times = jnp.asarray(times)
    num_steps = len(times) - 1
    keys, state = _start(key, denoise, solver, times, num_steps, first_index, x_start, kept_steps, shape, sharding)

    def body(state, inputs):
        k, t, s = inputs
        return _step(keys, denoise, solver, kept_steps, k, t, s, state), None

    steps = jnp.arange(num_steps), times[:-1], times[1:]
    return _samples(jax.lax.scan(jax.checkpoint(body), state, steps)[0], denoise.weight)


def _counts_apart(solver: Solver) -> tuple[tuple, tuple, Any]:
    """(the traced fields of the solver, its counts, its structure).

    The counts must be constants: a loop with a traced count has no reverse mode.
    """
    leaves, structure = jax.tree.flatten(solver)
    counts = tuple(leaf if isinstance(leaf, int) else None for leaf in leaves)
    return tuple(leaf if count is None else None for leaf, count in zip(leaves, counts, strict=True)), counts, structure


def _together(numbers: tuple, counts: tuple, structure: Any) -> Solver:
    """The solver that `_counts_apart` took apart."""
    leaves = [number if count is None else count for number, count in zip(numbers, counts, strict=True)]
    solver: Solver = jax.tree.unflatten(structure, leaves)
    return solver


_solve = jax.jit(_solve_traced, static_argnames=("shape", "sharding"))
_solve_by_scan = jax.jit(_solve_by_scan_traced, static_argnames=("counts", "structure", "shape", "sharding"))
