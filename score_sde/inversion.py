"""Inversion and editing: data to its latent by the probability flow and back, paths between latents, SDEdit.

The latent of an image is the noise that the probability flow carries it to. Any solver that adds no noise can go both ways:
Euler, Heun, the adaptive one, the multistep ones with η = 0 and others; solvers that draw make NaN on the way up.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt8

from score_sde import plots
from score_sde.dynamics import Denoise
from score_sde.function_denoiser import needs_denoiser
from score_sde.sdes.base import SDE
from score_sde.solvers import Grid, Samples, Solver, Upward, sample

Images = Float[Array, "b *shape"] | Float[np.ndarray, "b *shape"]
UNUSED_KEY = 0  # of solves that draw nothing


@needs_denoiser
def encode(denoise: Denoise, x0: Images, solver: Solver, grid: Grid) -> Samples:
    """x(t_0) of the probability flow through x(t_n) = α(t_n) x0, with t_0 > … > t_n the times of `grid`.

    Raises: ValueError for a grid that goes to σ = 0, from where no flow starts.
    """
    sde = denoise.sde
    times = grid.times(sde)
    _check_end(sde, times)
    x = sde.alpha(jnp.asarray(times[-1])) * jnp.asarray(x0, times.dtype)
    return sample(jax.random.key(UNUSED_KEY), denoise, solver, Upward(grid), tuple(x.shape), x_start=x)


@needs_denoiser
def decode(denoise: Denoise, latent: Images, solver: Solver, grid: Grid) -> Samples:
    """x(t_n)/α(t_n) of the probability flow from x(t_0) = `latent`: the inverse of `encode`, but for the solver's error."""
    sde = denoise.sde
    times = grid.times(sde)
    _check_end(sde, times)
    samples = sample(jax.random.key(UNUSED_KEY), denoise, solver, grid, tuple(latent.shape), x_start=latent)
    return samples._replace(x=samples.x / sde.alpha(jnp.asarray(times[-1])))


def _check_end(sde: SDE, times: np.ndarray) -> None:
    if not sde.sigma(jnp.asarray(times[-1])) > 0:
        raise ValueError(
            f"Inversion needs a grid that ends where σ > 0, got σ=0 at t={times[-1]}; use to_zero=False, end > 0."
        )


@needs_denoiser
def round_trip_error(denoise: Denoise, x0: Images, solver: Solver, grid: Grid) -> Float[Array, " b"]:
    """Root mean square over each image of decode(encode(x0)) − x0."""
    latent = encode(denoise, x0, solver, grid).x
    back = decode(denoise, latent, solver, grid).x
    difference = (back - jnp.asarray(x0, back.dtype)).reshape(back.shape[0], -1)
    return jnp.sqrt(jnp.mean(difference**2, axis=1))


def slerp(
    first: Float[Array, "*shape"], second: Float[Array, "*shape"], fractions: Float[Array, " k"]
) -> Float[Array, "k *shape"]:
    """(sin((1 − u) θ) first + sin(u θ) second)/sin θ, with θ the angle between them as vectors, for each u.

    Linear interpolation would pass through points too near to 0 to be noise. Where θ is nearly 0 it is linear.

    Source: Shoemake, 1985; for latents, White, arXiv 1609.04468.
    """
    norm = jnp.linalg.norm(first) * jnp.linalg.norm(second)
    angle = jnp.arccos(jnp.clip(jnp.vdot(first, second) / norm, -1, 1))
    flat = angle < 1e-3
    safe = jnp.where(flat, 1.0, angle)
    u = fractions.reshape(-1, *(1,) * first.ndim)
    weights = [jnp.where(flat, part, jnp.sin(part * safe) / jnp.sin(safe)) for part in (1 - u, u)]
    return weights[0] * first[None] + weights[1] * second[None]


@needs_denoiser
def interpolate(
    denoise: Denoise, first: Images, second: Images, solver: Solver, grid: Grid, number: int = 8
) -> Float[Array, "b k *shape"]:
    """`number` images on the way from first[i] to second[i], both included as the round trip has them, for each i."""
    latents = [encode(denoise, x, solver, grid).x for x in (first, second)]
    fractions = jnp.linspace(0.0, 1.0, number, dtype=latents[0].dtype)
    between = jax.vmap(slerp, in_axes=(0, 0, None))(latents[0], latents[1], fractions)
    decoded = decode(denoise, between.reshape(-1, *between.shape[2:]), solver, grid).x
    return decoded.reshape(between.shape)


def interpolation_picture(images: Float[Array, "b k *shape"]) -> UInt8[np.ndarray, "height width 3"]:
    """One row for each pair of `interpolate`; for `plots.save_image`."""
    return plots.image_grid(np.asarray(images).reshape(-1, *images.shape[2:]), columns=images.shape[1])


@needs_denoiser
def sdedit(
    key: Key[Array, ""], denoise: Denoise, x0: Images, solver: Solver, grid: Grid, *, first_index: int = 0
) -> Samples:
    """x0 perturbed to the grid's first time and solved back: it keeps what the noise there leaves of it.

    A small start (`grid.start`) is faithful to x0, a large one to the data; the paper has 0.3 to 0.6 of t_max. Image i
    draws from fold_in(key, first_index + i), as in `sample`. Any solver will do.

    Source: Meng et al., arXiv 2108.01073, Algorithm 1.
    """
    sde = denoise.sde
    start = jnp.asarray(grid.times(sde)[0])
    x0 = jnp.asarray(x0, start.dtype)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(first_index + jnp.arange(x0.shape[0], dtype=jnp.uint32))
    z = jax.vmap(lambda k: jax.random.normal(jax.random.fold_in(k, 0), x0.shape[1:], x0.dtype))(keys)
    x = sde.alpha(start) * x0 + sde.sigma(start) * z
    return sample(key, denoise, solver, grid, tuple(x.shape), first_index=first_index, x_start=x)
