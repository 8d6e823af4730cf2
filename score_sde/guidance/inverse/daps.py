"""DAPS: decoupled annealing posterior sampling."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.denoising.dynamics import Denoise
from score_sde.guidance.inverse.base import Measurement, noisy_measurement_of, residual
from score_sde.internal.pytree import pytree, static
from score_sde.sdes.base import SDE
from score_sde.solvers import noise
from score_sde.solvers.base import Batch, Count, Keys, Scalar, Solver, Step


@pytree
class DAPS(Solver):
    """x_s = α_s x0 + σ_s z, with x0 drawn given x_t and y. x_s need not be near x_t.

    x̂0(x_t) comes from `num_ode` Euler steps of the probability flow, from σ/α at t down to
    `ode_end` and then to 0. From x̂0 start `num_langevin` steps x0 ← x0 − h ∇(‖x0 − x̂0‖²/(2 r²) +
    ‖y − A(x0)‖²/(2 σ_y²)) + √(2h) z, with r = σ/α at t. h goes linearly from `step_size` at the
    first step of the grid to `step_size` · `last_ratio` at the last step. The operator may be
    nonlinear. h is at most r²/2, unlike in the paper, which stops at r = 0.1. h must also stay
    below about 2 σ_y²/‖A‖², or the Langevin steps diverge.

    Args:
      num_ode: the number of steps of the probability flow.
      ode_end: the noise level σ/α at which these steps end.
      num_langevin: the number of Langevin steps.
      step_size: the size h of the Langevin steps at the first step of the grid.
      last_ratio: h at the last step of the grid, relative to `step_size`.
    Error: p(x0 | x_t) is replaced by N(x̂0, r² I), and the Langevin steps are finite.
    Raises: ValueError unless all fields are positive; for σ_y = 0.
    Source: Zhang et al., arXiv 2407.01521, Algorithm 1 and App. B; the ODE's levels are EDM's, with
      ρ = 7.
    """

    num_ode: int = static(default=5)
    ode_end: float = 0.01
    num_langevin: int = 100
    step_size: float = 1e-4
    last_ratio: float = 0.01

    def __post_init__(self):
        if not min(self.num_ode, self.num_langevin) >= 1 or not min(self.ode_end, self.step_size, self.last_ratio) > 0:
            raise ValueError(f"DAPS needs num_ode, num_langevin >= 1 and the rest above 0, got {self}.")

    def init(self, x: Batch, num_steps: Count) -> Any:
        """(the number of the next step, the number of all steps)."""
        return jnp.zeros((), x.dtype), jnp.asarray(num_steps, x.dtype)

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        sde, (count, number) = denoise.sde, carry
        measurement = noisy_measurement_of(self, denoise)
        x0, evaluations = self._denoised(denoise, x, t)
        size = self.step_size * (1 + count / number * (self.last_ratio - 1))
        spread = sde.sigma(t) / sde.alpha(t)
        size = jnp.minimum(size, spread**2 / 2)
        x0 = self._langevin(noise.fold_in(key, 0), sde, measurement, x0, spread, size)
        x = sde.alpha(s) * x0 + noise.scaled(noise.fold_in(key, 1), sde, x, sde.sigma(s))
        return x, (count + 1, number), evaluations

    def _denoised(self, denoise: Denoise, x: Batch, t: Scalar) -> tuple[Batch, Any]:
        sde = denoise.sde
        levels = _levels(sde.sigma(t) / sde.alpha(t), jnp.asarray(self.ode_end, x.dtype), self.num_ode)
        times = jax.vmap(lambda level: sde.time_of_log_snr(-2 * jnp.log(level)))(levels)
        times = times.at[0].set(t)  # exactly

        def euler(x, pair):
            now, after = pair
            x0, eps = denoise(x, now)
            return sde.alpha(after) * x0 + sde.sigma(after) * eps, denoise.evaluations(now)

        x, evaluations = jax.lax.scan(euler, x, (times[:-1], times[1:]))
        return denoise(x, times[-1]).x0, jnp.sum(evaluations, axis=0) + denoise.evaluations(times[-1])

    def _langevin(
        self, key: Keys, sde: SDE, measurement: Measurement, mean: Batch, spread: Scalar, size: Scalar
    ) -> Batch:
        def potential(x0):
            error = residual(measurement, x0)
            near = jnp.sum((x0 - mean) ** 2) / (2 * spread**2)
            return near + jnp.sum(error**2) / (2 * measurement.noise_std**2)

        def move(k, x0):
            z = noise.like(noise.fold_in(key, k), sde, x0)
            return x0 - size * jax.grad(potential)(x0) + jnp.sqrt(2 * size) * z

        return jax.lax.fori_loop(0, self.num_langevin, move, mean)


def _levels(first: Scalar, last: Scalar, number: int, rho: float = 7.0) -> Float[Array, " n"]:
    """σ_i = (first^(1/ρ) + i/(n − 1) (last^(1/ρ) − first^(1/ρ)))^ρ, never up. Source: arXiv 2206.00364, Eq. 5."""
    last = jnp.minimum(first, last)
    u = jnp.linspace(0.0, 1.0, number, dtype=first.dtype)
    return (first ** (1 / rho) + u * (last ** (1 / rho) - first ** (1 / rho))) ** rho
