"""SDEdit: noise is added to an image, and a solve removes it again."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from score_sde.denoising.dynamics import Denoise
from score_sde.denoising.function_denoiser import needs_denoiser
from score_sde.editing.inversion import Images
from score_sde.solvers import Samples, Solver, sample
from score_sde.solvers.grids import Grid


@needs_denoiser
def sdedit(
    key: Key[Array, ""], denoise: Denoise, x0: Images, solver: Solver, grid: Grid, *, first_index: int = 0
) -> Samples:
    """x0 perturbed to the first time of the grid, and solved back.

    The result keeps those features of x0 that the noise does not hide. A small start (`grid.start`)
    is faithful to x0, and a large start is faithful to the data. The paper has 0.3 to 0.6 of t_max.
    Image i draws from fold_in(key, first_index + i), as in `sample`. Any solver works.

    Source: Meng et al., arXiv 2108.01073, Algorithm 1.
    """
    sde = denoise.sde
    start = jnp.asarray(grid.times(sde)[0])
    x0 = jnp.asarray(x0, start.dtype)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(first_index + jnp.arange(x0.shape[0], dtype=jnp.uint32))
    z = sde.noise(jax.vmap(lambda k: jax.random.fold_in(k, 0))(keys), x0.shape, x0.dtype)
    x = sde.alpha(start) * x0 + sde.sigma(start) * z
    return sample(key, denoise, solver, grid, tuple(x.shape), first_index=first_index, x_start=x)
