"""Inversion and editing: data to its latent by the probability flow and back, paths between latents, SDEdit.

The latent of an image is the noise that the probability flow carries it to. Any solver that adds no noise can go both ways:
Euler, Heun, the adaptive one, the multistep ones with η = 0 and others; solvers that draw make NaN on the way up.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.denoising.dynamics import Denoise
from score_sde.denoising.function_denoiser import needs_denoiser
from score_sde.sdes.base import SDE
from score_sde.solvers import Samples, Solver, sample
from score_sde.solvers.grids import Grid, Upward

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
