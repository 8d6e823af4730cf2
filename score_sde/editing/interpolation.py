"""Paths between images through their latents."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from score_sde import plots
from score_sde.denoising.dynamics import Denoise
from score_sde.denoising.function_denoiser import needs_denoiser
from score_sde.editing.inversion import Images, decode, encode
from score_sde.solvers import Solver
from score_sde.solvers.grids import Grid


def slerp(
    first: Float[Array, "*shape"], second: Float[Array, "*shape"], fractions: Float[Array, " k"]
) -> Float[Array, "k *shape"]:
    """(sin((1 − u) θ) first + sin(u θ) second)/sin θ for each u, with θ the angle between the two vectors.

    Linear interpolation would pass through points whose norm is too small for noise. Where θ is
    nearly 0, the interpolation is linear.

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
    """`number` images on the path from first[i] to second[i], for each i.

    The path includes both ends, as `encode` and `decode` reproduce them.
    """
    latents = [encode(denoise, x, solver, grid).x for x in (first, second)]
    fractions = jnp.linspace(0.0, 1.0, number, dtype=latents[0].dtype)
    between = jax.vmap(slerp, in_axes=(0, 0, None))(latents[0], latents[1], fractions)
    decoded = decode(denoise, between.reshape(-1, *between.shape[2:]), solver, grid).x
    return decoded.reshape(between.shape)


def interpolation_picture(images: Float[Array, "b k *shape"]) -> UInt8[np.ndarray, "height width 3"]:
    """One row of images for each pair of `interpolate`, to be written with `plots.save_image`."""
    return plots.image_grid(np.asarray(images).reshape(-1, *images.shape[2:]), columns=images.shape[1])
