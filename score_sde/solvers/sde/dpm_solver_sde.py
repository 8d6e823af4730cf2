"""DPM-Solver++ for the reverse SDE: single-step, and multistep of orders 2 and 3.

λ = log(α/σ) as in the papers. The knob of the noise is η: `DPMSolverPPSDE` has k-diffusion's ancestral one, of variance
η² (1 − e^{−2h}) σ_s² in a step of length h in λ; the multistep ones have that of the SDE, 1 − e^{−2ηh}. Both are 0 for the
probability flow and 1 for the reverse SDE of the 2021 paper; `s_noise` scales the standard deviation besides (1 is right).

With `consistent`, all grids see one Brownian path for each image (`score_sde.solvers.brownian`, at 24 draws a time);
without, each step draws anew, which has the same law.
"""

from typing import Any

import jax
import jax.numpy as jnp

from score_sde.denoising.dynamics import Denoise
from score_sde.internal.pytree import pytree, static
from score_sde.solvers import brownian, exponential, history
from score_sde.solvers.base import Batch, Count, Keys, Scalar, Solver, Step
from score_sde.solvers.integrators import rise


@pytree
class DPMSolverPPSDE(Solver):
    """DPM-Solver++ 2S on the reverse SDE: x̂0 at t and at λ_t + r h, each step ancestral with η.

    Two evaluations a step, one in a step to σ = 0 or from α = 0, which is then `DDIM`'s.

    Args:
      r: where the second evaluation is, as a part of the step in λ.
    Error: order 2 for η = 0, else strong order 1; on Gaussian data weak order 2.
    Raises: ValueError unless 0 <= eta <= 1, 0 < r < 1 and s_noise >= 0.
    Source: k-diffusion's sample_dpmpp_sde, after Lu et al., arXiv 2211.01095, Algorithm 1.
    """

    eta: float = 1.0
    r: float = 0.5
    s_noise: float = 1.0
    consistent: bool = static(default=False)

    def __post_init__(self):
        if not (0 <= self.eta <= 1 and 0 < self.r < 1 and self.s_noise >= 0):
            raise ValueError(
                f"DPMSolverPPSDE needs 0 <= eta <= 1, 0 < r < 1 and s_noise >= 0, got eta={self.eta}, r={self.r}, "
                f"s_noise={self.s_noise}."
            )

    def init(self, x: Batch, num_steps: Count) -> Any:
        return brownian.init(x, self.consistent)

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        sde = denoise.sde
        h, start = rise(sde, t, s), exponential.half_log_snr(sde, t)
        x0 = denoise(x, t).x0
        two = jnp.isfinite(h)
        inner = jnp.where(two, self.r * h, 0.0)
        draw = jnp.sign(jnp.asarray(self.eta, h.dtype))  # 0 draws nothing
        gaps = draw * inner, exponential.times(draw, h)
        levels = start, start + inner, exponential.half_log_snr(sde, s)
        (first, second), path = brownian.increments(key, sde, x, carry, levels, gaps)

        middle = sde.time_of_log_snr(2 * (start + inner))

        def both():
            at_middle = self._ancestral(sde, x, x0, t, middle, inner, first)
            other = denoise(at_middle, middle).x0
            return x0 + (other - x0) / (2 * self.r)

        blend = jax.lax.cond(two, both, lambda: x0)
        evaluations = denoise.evaluations(t) + jnp.where(two, denoise.evaluations(middle), 0)
        return self._ancestral(sde, x, blend, t, s, h, second), path, evaluations

    def _ancestral(self, sde, x, x0, t, s, h, drawn):
        """k-diffusion's step: down to σ̃_down with x̂0 held, then noise up to σ̃_s."""
        log_kept = 0.5 * jnp.log1p(self.eta**2 * jnp.expm1(-2 * h))  # log(σ̃_down/σ̃_s)
        scale = sde.sigma(s) / sde.sigma(t) * jnp.exp(log_kept)
        return scale * x - sde.alpha(s) * jnp.expm1(log_kept - h) * x0 + sde.sigma(s) * self.eta * self.s_noise * drawn


@pytree
class DPMSolverPP2MSDE(Solver):
    """x_s = (σ_s/σ_t) e^{−ηh} x + α_s ((1 − e^{−k}) x̂0 + w h x̂0') + σ_s N, k = (1 + η) h, x̂0' by the last step.

    w is ∫ k e^{−k(1−u)} u du for solver_type="heun", and half the weight of x̂0 for "midpoint". The first step, and one
    to σ = 0, is of order 1. One evaluation a step.

    Error: order 2 for η = 0, else strong order 1; on Gaussian data weak order 2.
    Raises: ValueError for negative eta or s_noise, or another type.
    Source: Lu et al., arXiv 2211.01095, Sec. 5 (η = 1); k-diffusion's sample_dpmpp_2m_sde (η, solver_type, s_noise).
    """

    eta: float = 1.0
    s_noise: float = 1.0
    solver_type: str = static(default="midpoint")
    consistent: bool = static(default=False)

    def __post_init__(self):
        _check(self, ("midpoint", "heun"))

    def init(self, x: Batch, num_steps: Count) -> Any:
        return brownian.init(x, self.consistent), history.start(x, 1, num_steps)

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        def integrals(k):
            first, second = exponential.moments(k, 2)
            return [first, second if self.solver_type == "heun" else 0.5 * first]

        return _multistep(self, key, denoise, x, t, s, carry, integrals)


@pytree
class DPMSolverPP3MSDE(Solver):
    """The same with x̂0 by the parabola through this and the last two steps. One evaluation a step.

    solver_type="taylor" integrates the parabola. "dpmsolver" is the authors' code (and k-diffusion's), which gives the
    second difference half of its weight, so that the order is 2.

    Error: order 3 for η = 0 and "taylor", else strong order 1; on Gaussian data weak order 2.
    Raises: ValueError for negative eta or s_noise, or another type.
    Source: Lu et al., arXiv 2211.01095, App. A; k-diffusion's sample_dpmpp_3m_sde (η, s_noise).
    """

    eta: float = 1.0
    s_noise: float = 1.0
    solver_type: str = static(default="taylor")
    consistent: bool = static(default=False)

    def __post_init__(self):
        _check(self, ("taylor", "dpmsolver"))

    def init(self, x: Batch, num_steps: Count) -> Any:
        return brownian.init(x, self.consistent), history.start(x, 2, num_steps)

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        def integrals(k):
            first, second, third = exponential.moments(k, 3)
            return [first, second, third if self.solver_type == "taylor" else 0.5 * third]

        return _multistep(self, key, denoise, x, t, s, carry, integrals)


def _check(solver, types):
    if not (solver.eta >= 0 and solver.s_noise >= 0 and solver.solver_type in types):
        raise ValueError(
            f"{type(solver).__name__} needs eta >= 0, s_noise >= 0 and a solver_type of {' or '.join(types)}, got {solver}."
        )


def _multistep(solver, key, denoise, x, t, s, carry, integrals):
    """`integrals` are those over the powers of u, for k: as many as the order."""
    sde, (path, past) = denoise.sde, carry
    x0, h = denoise(x, t).x0, rise(sde, t, s)
    gains = sde.alpha(s) * jnp.stack(integrals(h + exponential.times(solver.eta, h)))
    x, path = exponential.without_data(key, sde, x, t, s, solver.eta, solver.s_noise, path)
    nodes = -rise(sde, past.times, t) / h
    x, past = history.extrapolate(past, past.order(len(gains)), x0, t, x + gains[0] * x0, nodes, gains)
    return x, (path, past), denoise.evaluations(t)
