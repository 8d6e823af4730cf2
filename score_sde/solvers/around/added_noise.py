"""η for any solver: the solver goes further than s, and the noise of the SDE leads back to s."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.denoising.dynamics import Denoise
from score_sde.internal.pytree import pytree
from score_sde.sdes.base import SDE, Time
from score_sde.solvers import noise
from score_sde.solvers.base import Batch, Keys, Scalar, Solver, Step, Wrapper
from score_sde.solvers.integrators import rise


def earlier(sde: SDE, t: Time, s: Time, eta: Scalar | float, least: Scalar | float = 0.0) -> Float[Array, "*b"]:
    """r in [least, s], the time from which noise leads to s: σ̃_r² = σ̃_s² (1 − η² (1 − σ̃_s²/σ̃_t²)).

    With λ = log SNR, this is λ_r = λ_s − log(1 − η² (1 − e^{λ_t − λ_s})). r is s where η or σ_s is
    0.
    """
    lower = sde.time_of_log_snr(sde.log_snr(s) - jnp.log1p(eta**2 * jnp.expm1(-2 * rise(sde, t, s))))
    noisy = (sde.sigma(s) > 0) & (jnp.asarray(eta) > 0)
    return jnp.where(noisy, jnp.clip(lower, least, s), s)


@pytree
class AncestralSteps(Wrapper):
    """x_s = α_{s|r} x_r + s_noise σ_{s|r} z, with x_r by `solver` from t to r < s.

    r is chosen by σ̃_r² = σ̃_s² (1 − η² (1 − σ̃_s²/σ̃_t²)), with σ̃ = σ/α. For an exact x_r the
    marginal at s is exact, whatever η is. So every solver can have noise, on every SDE. η = 0 is
    `solver` itself.

    Around `DDIM` the result is `DDIM` with η, and k-diffusion's euler_ancestral. Around `DPM2` it
    is k-diffusion's dpm_2_ancestral, and around `DPMSolverPP2S` its dpmpp_2s_ancestral. The
    variance of the noise is DDIM's, and gDDIM's for these SDEs.

    Args:
      solver: the solver that goes from t to r.
      eta: η, the amount of noise, 0 to 1.
      s_noise: a factor of the standard deviation of the noise.
    Error: the order of `solver` for η = 0, else weak order 1 (for Heun's method, 2 on Gaussian
      data). A step to σ = 0 adds no noise.
    Raises: ValueError unless 0 <= eta <= 1 and s_noise >= 0.
    Source: k-diffusion's get_ancestral_step; Song et al., arXiv 2010.02502, Eq. 16; Zhang et al.,
      arXiv 2206.05564.
    """

    solver: Solver
    eta: float = 1.0
    s_noise: float = 1.0

    def __post_init__(self):
        if not (0 <= self.eta <= 1 and self.s_noise >= 0):
            raise ValueError(
                f"AncestralSteps needs 0 <= eta <= 1 and s_noise >= 0, got eta={self.eta}, s_noise={self.s_noise}."
            )

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        sde = denoise.sde
        r = earlier(sde, t, s, self.eta)  # never below 0: `VE` has σ(0) = σ_min, so r could come out below
        x, carry, evaluations = self.solver.step(noise.fold_in(key, 1), denoise, x, t, r, carry)

        def up():
            return noise.diffused(noise.fold_in(key, 0), sde, x, r, s, self.s_noise)

        return jax.lax.cond(r < s, up, lambda: x), carry, evaluations
