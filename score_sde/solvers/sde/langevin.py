"""Langevin dynamics at one noise level: the correctors, and annealed Langevin dynamics.

    x ← x + ε ∇ log p_t(x) + √(2ε) z

In the limit ε → 0 this leaves p_t unchanged. So it keeps the noise level, and removes the error
that a predictor made. Without a predictor it is annealed Langevin dynamics: the result at t is
taken as x_s.

**What does snr mean?** `snr` is the ratio of the two terms of a step, signal (the drift) to noise.
For typical x, ‖∇ log p_t‖ = ‖z‖/σ. Then the drift moves x by 2 α snr² σ ‖z‖, the noise moves x by 2
√α snr σ ‖z‖, and their ratio is √α snr. A step is about 2 snr noise levels σ long. It renews about
2 snr² of x: 5 % at snr = 0.16. That is the value of the 2021 code for 32×32 images; the code has
0.075 … 0.17 for larger images. A larger snr removes more of the predictor's error, but adds more
error of its own, because ε is finite. Too large an snr shows as grain, and too small an snr as
unfinished pictures.

**What does alpha mean?** In the 2021 code, `alpha` belongs to the discrete forward step into this
level: 1 − β_i for VP, 1 for VE. Here α = α_{t|s}², of the transition between the grid's times. The
meaning is the same, and it exists for every SDE. On fine grids it is 1.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.denoising.dynamics import Denoise
from score_sde.internal.broadcast import expand_like
from score_sde.internal.per_example import norm
from score_sde.internal.pytree import pytree
from score_sde.solvers import noise
from score_sde.solvers.base import Batch, Keys, Scalar, Solver, Step

StepSize = Callable[[Float[Array, "b *shape"], Float[Array, "b *shape"]], Float[Array, "*b"]]


@pytree
class Langevin(Solver):
    """x ← x + ε ∇ log p_t + √(2ε) z, `num_steps` times, with ε = 2 α (snr ‖z‖/‖∇ log p_t‖)² for each image.

    The norms are over one image. The 2021 code takes means of the norms over the batch, so an image
    there depends on its neighbours. The price: the score of one image can vanish (x near a mode),
    and ε would be infinite. So `max_ratio` limits ‖z‖/‖ε̂‖, which is 1 for typical x.

    In few dimensions this ratio varies a lot from x to x. A step size that depends on x biases the
    stationary density. `AnnealedLangevin` has no such bias.

    Args:
      snr: the ratio of signal to noise in a step, as in the module docstring.
      num_steps: the number of steps at each time of the grid.
      max_ratio: the largest ‖z‖/‖ε̂‖ that enters ε.
    Raises: ValueError unless snr > 0, num_steps >= 1 and max_ratio > 0.
    Source: Song et al., arXiv 2011.13456, Algorithms 4 and 5.
    """

    snr: float = 0.16
    num_steps: int = 1
    max_ratio: float = 2.0

    def __post_init__(self):
        _check(self, self.max_ratio > 0)

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        typical = _typical_step_size(self.snr, denoise.sde, t, s)

        def step_size(eps, z):
            return typical * jnp.minimum(norm(z, denoise.weight) / norm(eps, denoise.weight), self.max_ratio) ** 2

        x = _langevin(key, denoise, x, t, self.num_steps, step_size)
        return x, carry, self.num_steps * denoise.evaluations(t)


@pytree
class AnnealedLangevin(Solver):
    """x ← x + ε ∇ log p_t + √(2ε) z, `num_steps` times, with ε = 2 α (snr σ)².

    For `VE`, without a predictor and on the paper's levels, it is the paper's NCSN sampler. It is
    also the ALD corrector of the 2021 paper.

    Args:
      snr: the ratio of signal to noise in a step, as in the module docstring.
      num_steps: the number of steps at each time of the grid.
    Error: order ε in the density.
    Raises: ValueError unless snr > 0 and num_steps >= 1.
    Source: Song & Ermon, arXiv 1907.05600, Algorithm 1, with ε ∝ σ²; the constant as in the code of
      arXiv 2011.13456.
    """

    snr: float = 0.16
    num_steps: int = 1

    def __post_init__(self):
        _check(self)

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        typical = _typical_step_size(self.snr, denoise.sde, t, s)
        x = _langevin(key, denoise, x, t, self.num_steps, lambda eps, z: typical)
        return x, carry, self.num_steps * denoise.evaluations(t)


def _check(corrector, also: bool = True):
    if not (corrector.snr > 0 and corrector.num_steps >= 1 and also):
        raise ValueError(
            f"{type(corrector).__name__} needs snr > 0, num_steps >= 1 and limits above 0, got {corrector}."
        )


def _typical_step_size(snr, sde, t, s):
    """2 α (snr σ)²: the step size ε where ‖∇ log p_t‖ = ‖z‖/σ."""
    return 2 * (sde.transition(s, t).scale * snr * sde.sigma(t)) ** 2


def _langevin(key, denoise, x, t, num_steps, step_size: StepSize):
    sde, sigma = denoise.sde, denoise.sde.sigma(t)

    def body(k, x):
        eps, z = denoise(x, t).eps, noise.like(noise.fold_in(key, k), sde, x)
        size = expand_like(step_size(eps, z), x)
        return x - size / sigma * eps + jnp.sqrt(2 * size) * z

    return jax.lax.fori_loop(0, num_steps, body, x)
