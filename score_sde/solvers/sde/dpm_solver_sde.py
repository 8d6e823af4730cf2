"""DPM-Solver++ for the reverse SDE: single-step, and multistep of orders 2 and 3.

λ = log(α/σ), as in the papers. η sets the amount of noise in a step of length h in λ.
`DPMSolverPPSDE` has k-diffusion's ancestral η: the noise has the variance η² (1 − e^{−2h}) σ_s².
The multistep solvers have the η of the SDE: the variance is (1 − e^{−2ηh}) σ_s². In both, η = 0 is
the probability flow, and η = 1 is the reverse SDE of the 2021 paper. `s_noise` also scales the
standard deviation of the noise; 1 is right.

With `consistent`, each image has one Brownian path, and all grids see that path. A draw then costs
24 draws for each time (`score_sde.solvers.brownian`). Without it, each step draws new noise, with
the same distribution.
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
    """DPM-Solver++ 2S on the reverse SDE: x̂0 at t and at λ_t + r h, with ancestral steps of noise η.

    A step makes two evaluations. A step to σ = 0 or from α = 0 makes one, and is a `DDIM` step.

    Args:
      eta: the amount of noise, 0 to 1.
      r: where the second evaluation is, as a fraction of the step in λ.
      s_noise: a factor of the standard deviation of the noise.
      consistent: whether all grids see the same Brownian path.
    Error: order 2 for η = 0, else strong order 1; weak order 2 on Gaussian data.
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
        # The noise itself has variance 1 − e^{−2h}, and `_ancestral` scales it by η. A gap of 0 for
        # η = 0 tells `increments` to draw nothing.
        draw = jnp.sign(jnp.asarray(self.eta, h.dtype))
        gaps = draw * inner, exponential.times(draw, h)
        levels = start, start + inner, exponential.half_log_snr(sde, s)
        (first, second), path = brownian.increments(key, sde, x, carry, levels, gaps)

        middle = sde.time_of_log_snr(2 * (start + inner))

        def both():
            at_middle = self._ancestral(sde, x, x0, t, middle, inner, first)
            other = denoise(at_middle, middle).x0
            # x̂0 extrapolated linearly to the middle of the step, λ_t + h/2.
            return x0 + (other - x0) / (2 * self.r)

        blend = jax.lax.cond(two, both, lambda: x0)
        evaluations = denoise.evaluations(t) + jnp.where(two, denoise.evaluations(middle), 0)
        return self._ancestral(sde, x, blend, t, s, h, second), path, evaluations

    def _ancestral(self, sde, x, x0, t, s, h, drawn):
        """k-diffusion's ancestral step: down to σ̃_down with x̂0 constant, then noise up to σ̃_s."""
        log_kept = 0.5 * jnp.log1p(self.eta**2 * jnp.expm1(-2 * h))  # log(σ̃_down/σ̃_s)
        scale = sde.sigma(s) / sde.sigma(t) * jnp.exp(log_kept)
        return scale * x - sde.alpha(s) * jnp.expm1(log_kept - h) * x0 + sde.sigma(s) * self.eta * self.s_noise * drawn


@pytree
class DPMSolverPP2MSDE(Solver):
    """x_s = (σ_s/σ_t) e^{−ηh} x + α_s ((1 − e^{−k}) x̂0 + w h x̂0') + σ_s N, with k = (1 + η) h.

    x̂0' is the slope of x̂0 over the last step. The weight w is ∫ k e^{−k(1−u)} u du for
    solver_type="heun", and half the weight of x̂0 for "midpoint". The first step has order 1, and
    so has a step to σ = 0. Each step makes one evaluation.

    Args:
      eta: η, the amount of noise; 1 is the reverse SDE.
      s_noise: a factor of the standard deviation of the noise.
      solver_type: "midpoint" or "heun".
      consistent: whether all grids see the same Brownian path.
    Error: order 2 for η = 0, else strong order 1; weak order 2 on Gaussian data.
    Raises: ValueError for negative eta or s_noise, or another type.
    Source: Lu et al., arXiv 2211.01095, Sec. 5 (η = 1); k-diffusion's sample_dpmpp_2m_sde (η,
      solver_type, s_noise).
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
    """`DPMSolverPP2MSDE` with x̂0 as the parabola through this step and the last two steps.

    Each step makes one evaluation. solver_type="taylor" integrates the parabola. "dpmsolver" is the
    authors' code (and k-diffusion's): it gives the second difference half of its weight, so the
    order is 2.

    Args:
      eta: η, the amount of noise; 1 is the reverse SDE.
      s_noise: a factor of the standard deviation of the noise.
      solver_type: "taylor" or "dpmsolver".
      consistent: whether all grids see the same Brownian path.
    Error: order 3 for η = 0 and "taylor", else strong order 1; weak order 2 on Gaussian data.
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
    """One multistep step. `integrals(k)` are the integrals of 1, u, u² …, as many as the order."""
    sde, (path, past) = denoise.sde, carry
    x0, h = denoise(x, t).x0, rise(sde, t, s)
    gains = sde.alpha(s) * jnp.stack(integrals(h + exponential.times(solver.eta, h)))
    x, path = exponential.without_data(key, sde, x, t, s, solver.eta, solver.s_noise, path)
    nodes = -rise(sde, past.times, t) / h
    x, past = history.extrapolate(past, past.order(len(gains)), x0, t, x + gains[0] * x0, nodes, gains)
    return x, (path, past), denoise.evaluations(t)
