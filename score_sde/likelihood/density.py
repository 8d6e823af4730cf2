"""The log-density of data by the instantaneous change of variables along the probability flow.

Along dx/dt = v, d log p_t(x_t)/dt = −div v(x_t, t). So

    log p_{t_min}(x) = log p_{t_max}(x_T) + ∫ div v(x_t, t) dt from t_min to t_max, with x_{t_min} = x.

Source: Chen et al., arXiv 1806.07366, Theorem 1; Song et al., arXiv 2011.13456, Sec. 4.3 and App.
  D.2.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Num

from score_sde.denoising.dynamics import Denoise, velocity
from score_sde.denoising.function_denoiser import as_denoise, needs_denoiser
from score_sde.internal.per_example import weighted
from score_sde.internal.pytree import is_traced, pytree
from score_sde.likelihood.divergences import Divergence, Hutchinson
from score_sde.sdes.base import SDE
from score_sde.solvers.adaptive_ode import Adaptive


class LogDensity(NamedTuple):
    """Log-densities in nats per example, with their parts.

    Attributes:
      log_prob: log p_{t_min}(x), the mean over probes.
      latent: x_T, the end of the flow from x.
      nfe: the network evaluations of each image, counted as if the image were alone. Each
        evaluation includes its products with the Jacobian.
      per_probe: the log-density from each probe alone. One row for the exact trace.
      failed: images whose solve did not reach t_max. All their values are NaN. Within `jit` or
        `vmap` they are only flagged; otherwise they raise an error.
    """

    log_prob: Float[Array, " b"]
    latent: Float[Array, "b *shape"]
    nfe: Int[Array, " b"]
    per_probe: Float[Array, "p b"]
    failed: Bool[Array, " b"]


@pytree
class LogProb:
    """log p_{t_min}(x) ≈ log N(x_T; 0, prior_std² I) + ∫ div v dt, solved adaptively from t_min to t_max.

    Each image has its own steps. Numbers of x with the weight 0 in `denoise.weight` are padding and
    do not count. The result is the density of the model's data with the noise of
    `t_min`. The solve cannot start at t = 0, where the score of data on a grid or a manifold is
    infinite. For `EDM`, whose time is σ, t_min is a noise level (0.002 in its paper).

    The log-density is part of the state whose error is controlled, and all probes share one solve.
    Without it, the steps grow without bound at a point that the flow leaves in place, such as the
    mean of a Gaussian. There, in 64 dimensions and at a tolerance of 1e-5, the log-density was
    wrong by 2.6 to 29 nats. With it, the error is 0.005 to 0.012 nats.

    The variable of the solve is t. √t took fewer evaluations for VP on a steep spectrum (69 instead
    of 111), but more for VE (152 instead of 120) and for `Flow` (92 instead of 75). log t and the
    log-SNR took up to twice as many.

    Error: three parts. First, the error of `adaptive`, in nats about its tolerance times the
      largest |log p_t| on the way. At 1e-5 it is 1e-4 to 4e-4 on 2-D mixtures. It is 0.03 for
      `DiscreteVP.ddpm`, whose table has kinks, at four times the evaluations. Second, the variance
      of the probes, see `Hutchinson`. Third, log p_{t_max}(x_T) − log N(x_T; 0, prior_std² I). It
      is about α μ x_T for each dimension of mean μ, with α = 0.0066 at VP's t_max. It is up to 1e-3
      nats on those mixtures (0.02 for VP(0.5, 12), 0 for `Flow`). On a 64-D mixture it is 0.03 for
      VP and 0.08 for VE.
    Raises: ValueError unless 0 < t_min < t_max of the SDE (checked when called). ValueError for x
      without a batch axis or of whole numbers, or for an SDE that overrides `noise` without
      `prior_log_prob`. RuntimeError where an image fails, except within `jit`.
    """

    adaptive: Adaptive = Adaptive()
    t_min: float = 1e-5
    divergence: Divergence = Hutchinson()

    @needs_denoiser
    def __call__(
        self,
        key: Key[Array, ""],
        denoise: Denoise,
        x: Num[Array, "b *shape"],
        *,
        index: Int[Array, " b"] | None = None,
    ) -> LogDensity:
        """The log-density of each x, in one compiled program.

        The tolerances, t_min and the fields of `denoise` are traced, if `denoise` is a pytree, as all
        denoisers of this library are.

        Args:
          index: positions of the images in their data set. None is 0, 1, … Image i draws its probes
            from fold_in(key, index[i]), so it has the same probes in any batch.
        """
        sde = denoise.sde
        if x.ndim < 2:
            raise ValueError(f"LogProb needs x [b, *shape of one example], got the shape {x.shape}.")
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(
                f"LogProb needs x of floating point, got {x.dtype}; scale levels as the model's data were, k ↦ 2 k/255 − 1 "
                "for images, and for bits/dim of levels use example_bits, which spreads them over their bins."
            )
        if not is_traced((self.t_min, sde)) and not 0 < self.t_min < sde.t_max:
            raise ValueError(
                f"LogProb needs 0 < t_min < t_max={sde.t_max} of {type(sde).__name__}, got t_min={self.t_min}; "
                "t_min is a time of the SDE, which for EDM is the noise level."
            )
        if type(sde).noise is not SDE.noise and type(sde).prior_log_prob is SDE.prior_log_prob:
            raise ValueError(
                f"LogProb needs the density of the prior of {type(sde).__name__}, whose noise is not N(0, I): override "
                "prior_log_prob as well as noise."
            )
        index = jnp.arange(x.shape[0]) if index is None else index
        density = _solve(key, self, as_denoise(denoise), x, index)
        self.adaptive.raise_if(density.failed)
        return density


@jax.jit
def _solve(key, log_prob: LogProb, denoise, x, index) -> LogDensity:
    sde, divergence = denoise.sde, log_prob.divergence
    probes = divergence.draw(image_keys(key, index), x)

    def field(t, state):
        def flow(x):
            # Padding stands still, so that it adds nothing to the divergence.
            return weighted(velocity(sde, denoise(x, t), t), denoise.weight)

        return divergence(flow, state[0], probes)

    start = jax.eval_shape(field, jnp.zeros(x.shape[:1], x.dtype), (x, None))[1]
    t0, t1 = (jnp.asarray(t, x.dtype) for t in (log_prob.t_min, sde.t_max))
    state = x, jnp.zeros(start.shape, start.dtype)
    solution = log_prob.adaptive.solve(field, state, t0, t1, denoise.evaluations, (denoise.weight, None))
    latent, change = solution.y
    per_probe = sde.prior_log_prob(latent, denoise.weight)[None] + change.T
    return LogDensity(jnp.mean(per_probe, axis=0), latent, solution.nfe, per_probe, solution.failed)


def image_keys(key: Key[Array, ""], index: Int[Array, " b"]) -> Key[Array, " b"]:
    """fold_in(key, index) for each image."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
