"""Inversion: from data to its latent by the probability flow, and back.

The latent of an image is the noise to which the probability flow carries the image. Any solver that
adds no noise works in both directions: Euler, Heun, the adaptive solvers, the multistep solvers
with η = 0, and others. Solvers that draw noise give NaN in the direction of noise.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.denoising.dynamics import Denoise
from score_sde.denoising.function_denoiser import needs_denoiser
from score_sde.internal.per_example import root_mean_square
from score_sde.sdes.base import SDE
from score_sde.solvers import Samples, Solver, sample
from score_sde.solvers.grids import Grid, Upward

Images = Float[Array, "b *shape"] | Float[np.ndarray, "b *shape"]
UNUSED_KEY = 0  # the seed of solves that draw nothing


@needs_denoiser
def encode(denoise: Denoise, x0: Images, solver: Solver, grid: Grid) -> Samples:
    """x(t_0) of the probability flow that starts from x(t_n) = α(t_n) x0.

    t_0 > … > t_n are the times of `grid`.

    Raises: ValueError for a grid that goes to σ = 0, where no flow can start.
    """
    sde = denoise.sde
    times = grid.times(sde)
    _check_end(sde, times)
    x = sde.alpha(jnp.asarray(times[-1])) * jnp.asarray(x0, times.dtype)
    return sample(jax.random.key(UNUSED_KEY), denoise, solver, Upward(grid), tuple(x.shape), x_start=x)


@needs_denoiser
def decode(denoise: Denoise, latent: Images, solver: Solver, grid: Grid) -> Samples:
    """x(t_n)/α(t_n) of the probability flow from x(t_0) = `latent`.

    This is the inverse of `encode`, up to the solver's error.
    """
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
    """The root mean square of decode(encode(x0)) − x0 over each image, without its padding."""
    latent = encode(denoise, x0, solver, grid).x
    back = decode(denoise, latent, solver, grid).x
    return root_mean_square(back - jnp.asarray(x0, back.dtype), denoise.weight)
