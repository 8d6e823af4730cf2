"""Adams–Bashforth methods for the probability flow: a polynomial through previous answers, integrated over the step.

An answer of the network is the slope of x/N in a variable m, where N(t) is a scale. Each answer has
its own N and m:

    answer   N = …            m = …
    ε̂        α                σ/α
    ε̂ − x̂0   α + σ            σ/(α + σ)
    v̂        √V               atan(σ/(α σ_data)), with V = α² σ_data² + σ²

and v̂ = (α σ_data ε̂ − σ x̂0/σ_data)/√V.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.denoising.dynamics import Denoise
from score_sde.denoising.estimate import Estimate
from score_sde.internal.pytree import pytree, static
from score_sde.sdes.base import SDE
from score_sde.solvers import history
from score_sde.solvers.base import Batch, Count, Keys, Scalar, Solver, Step
from score_sde.solvers.integrators import Times, ddim, gain, moments, predicted, require_one_of, rise, transfer

QUADRATURE = np.polynomial.legendre.leggauss(16)


def quadrature(dtype: Any) -> tuple[Float[Array, " q"], Float[Array, " q"]]:
    """The nodes and weights of Gauss–Legendre quadrature on [0, 1]."""
    nodes, weights = QUADRATURE
    return jnp.asarray(0.5 * (nodes + 1), dtype), jnp.asarray(0.5 * weights, dtype)


class Integrand(NamedTuple):
    """An answer, and the step from t to s in its variable m."""

    answer: Batch
    base: Batch  # x_s for an answer that stays constant over the step
    length: Float[Array, ""]  # N_s (m(s) − m(t))
    nodes: Float[Array, " k"]  # the nodes of the previous answers, in units of the step


def cross(sde: SDE, t: Times, s: Times) -> Float[Array, "..."]:
    """σ_s α_t − σ_t α_s, computed from differences, so that a short step keeps its digits."""
    alpha_t, sigma_t = sde.marginal(t)
    alpha_s, sigma_s = sde.marginal(s)
    return (sigma_s - sigma_t) * alpha_t - sigma_t * (alpha_s - alpha_t)


def noise_integrand(sde: SDE, estimate: Estimate, t: Scalar, s: Scalar, times: Float[Array, " k"]) -> Integrand:
    """The answer ε̂, in the variable m = σ/α."""
    length = transfer(sde, t, s)
    nodes = -transfer(sde, times, t) / sde.alpha(t) * sde.alpha(s) / length
    return Integrand(estimate.eps, ddim(sde, estimate, s), length, nodes)


def flow_integrand(sde: SDE, estimate: Estimate, t: Scalar, s: Scalar, times: Float[Array, " k"]) -> Integrand:
    """The answer ε̂ − x̂0, in the variable m = σ/(α + σ)."""

    def scale(t):
        return sde.alpha(t) + sde.sigma(t)

    length = cross(sde, t, s) / scale(t)
    nodes = -cross(sde, times, t) / (scale(times) * scale(t)) * scale(s) / length
    return Integrand(estimate.eps - estimate.x0, ddim(sde, estimate, s), length, nodes)


def velocity_integrand(
    sde: SDE, estimate: Estimate, t: Scalar, s: Scalar, times: Float[Array, " k"], sigma_data: Scalar | float
) -> Integrand:
    """The answer v̂, in the variable m = atan(σ/(α σ_data))."""

    def angle(t, s):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = sde.marginal(t), sde.marginal(s)
        # The difference of two arctangents as one, which does not cancel: tan(a − b) = sin/cos.
        along = alpha_s * alpha_t * sigma_data**2 + sigma_s * sigma_t
        return jnp.arctan2(cross(sde, t, s) * sigma_data, along)

    def scale(t):
        return jnp.hypot(sde.alpha(t) * sigma_data, sde.sigma(t))

    (alpha, sigma), (x0, eps) = sde.marginal(t), estimate
    answer = (alpha * sigma_data * eps - sigma / sigma_data * x0) / scale(t)
    length = scale(s) * angle(t, s)
    base = scale(s) / scale(t) * (alpha * x0 + sigma * eps) + length * answer
    return Integrand(answer, base, length, -angle(times, t) / angle(t, s))


@pytree
class AdamsBashforth(Solver):
    """x_s = N_s (x/N_t + ∫ P dm), with P the polynomial in m through the last `order` answers.

    `predicts` names the answer, and with it N and m, as in the table of the module: "eps", "flow"
    (ε̂ − x̂0) or "v" (v̂). The first steps have lower order. In a solve of fewer than
    `lower_order_below` steps, the last steps have lower order too. With "eps", order 4 is
    k-diffusion's LMS, and DEIS's ρAB.

    Args:
      order: the number of answers that the polynomial uses.
      predicts: the answer: "eps", "flow" or "v".
      sigma_data: σ_data, which "v" needs.
      lower_order_below: solves of fewer steps have lower order at the end.
    Error: `order`, in steps of m.
    Raises: ValueError for order < 1, an unknown answer, or sigma_data not positive.
    Source: Hairer, Nørsett & Wanner, Solving ODEs I, Sec. III.1; azula's zABSampler and vABSampler.
    """

    order: int = static(default=2)
    predicts: str = static(default="eps")
    sigma_data: Scalar | float = 1.0
    lower_order_below: Count = 0

    def __post_init__(self):
        require_one_of("predicts", self.predicts, ("eps", "flow", "v"), self)
        _check(self)

    def init(self, x: Batch, num_steps: Count) -> history.History:
        return history.start(x, max(1, self.order - 1), num_steps)

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        sde = denoise.sde
        estimate, times = denoise(x, t), carry.times
        if self.predicts == "v":
            integrand = velocity_integrand(sde, estimate, t, s, times, self.sigma_data)
        else:
            integrand = (noise_integrand if self.predicts == "eps" else flow_integrand)(sde, estimate, t, s, times)
        # The integrals of θ^k over [0, 1] are 1/(k + 1): in m, the kernel of the integral is constant.
        gains = integrand.length / jnp.arange(1, self.order + 1, dtype=integrand.length.dtype)
        now = carry.order(self.order, self.lower_order_below)
        x, past = history.extrapolate(carry, now, integrand.answer, t, integrand.base, integrand.nodes, gains)
        return x, past, denoise.evaluations(t)


@pytree
class ExponentialAdamsBashforth(Solver):
    """x_s = N_s (x/N_t + ∫ P dm), with P the polynomial in log(α/σ) through the last `order` answers.

    `predicts` names the answer. "eps" is the multistep form of DPM-Solver ("taylor"), and also
    DEIS's logρAB. "x0" is the multistep form of DPM-Solver++. "v" is the Rosenbrock-type method:
    for data of standard deviation σ_data, the part of ε̂ that is linear in x goes into the
    exponential.

    The first steps have lower order. In a solve of fewer than `lower_order_below` steps, the last
    steps have lower order too. A step to σ(s) = 0 has order 1.

    Args:
      order: the number of answers that the polynomial uses.
      predicts: the answer: "eps", "x0" or "v".
      sigma_data: σ_data, which "v" needs.
      lower_order_below: solves of fewer steps have lower order at the end.
    Error: `order`, in steps of log(α/σ).
    Raises: ValueError for order < 1, an unknown answer, or sigma_data not positive.
    Source: azula's zEABSampler, xEABSampler and REABSampler (after Zheng et al., arXiv 2310.13268).
      The integral of "v" is by Gauss–Legendre quadrature with 16 nodes.
    """

    order: int = static(default=2)
    predicts: str = static(default="x0")
    sigma_data: Scalar | float = 1.0
    lower_order_below: Count = 0

    def __post_init__(self):
        require_one_of("predicts", self.predicts, ("eps", "x0", "v"), self)
        _check(self)

    def init(self, x: Batch, num_steps: Count) -> history.History:
        return history.start(x, max(1, self.order - 1), num_steps)

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        sde = denoise.sde
        estimate, h, times = denoise(x, t), rise(sde, t, s), carry.times
        if self.predicts == "v":
            answer, base, gains = self._rosenbrock(sde, estimate, t, s, h)
        else:
            c, z = gain(sde, s, h, self.predicts)
            answer, base, gains = predicted(estimate, self.predicts), ddim(sde, estimate, s), c * moments(z, self.order)
        now = carry.order(self.order, self.lower_order_below)
        x, past = history.extrapolate(carry, now, answer, t, base, -rise(sde, times, t) / h, gains)
        return x, past, denoise.evaluations(t)

    def _rosenbrock(self, sde, estimate, t, s, h):
        """(the answer v̂, x_s of order 1, the integrals of 1, θ, θ² …).

        The integrals use dm/dl = −½ sech(l + log σ_data) for m = atan(σ/(α σ_data)).
        """
        integrand = velocity_integrand(sde, estimate, t, s, jnp.zeros(0, h.dtype), self.sigma_data)
        nodes, weights = quadrature(h.dtype)
        log_ratio = 0.5 * sde.log_snr(t) + nodes * h + jnp.log(self.sigma_data)
        scale = jnp.hypot(sde.alpha(s) * self.sigma_data, sde.sigma(s))
        density = -0.5 * scale * h * weights / jnp.cosh(log_ratio)
        powers = jnp.stack([nodes**k for k in range(self.order)])
        base = jnp.where(jnp.isfinite(h), integrand.base, ddim(sde, estimate, s))
        return integrand.answer, base, powers @ density


@pytree
class LMS(Solver):
    """x_s = α_s (x/α_t + ∫ P dτ), with P the polynomial in τ = σ/α through the last `order` ε̂.

    Args:
      order: the number of ε̂ that the polynomial uses.
    Error: `order`, in steps of τ.
    Raises: ValueError for order < 1.
    Source: k-diffusion's sample_lms; arXiv 2204.13902, ρAB.
    """

    order: int = static(default=4)

    def __post_init__(self):
        AdamsBashforth(self.order)  # checks the order

    def init(self, x: Batch, num_steps: Count) -> history.History:
        return AdamsBashforth(self.order).init(x, num_steps)

    def step(self, key: Keys, denoise: Denoise, x: Batch, t: Scalar, s: Scalar, carry: Any) -> Step:
        return AdamsBashforth(self.order).step(key, denoise, x, t, s, carry)


def _check(solver):
    if solver.order < 1 or not solver.sigma_data > 0:
        raise ValueError(
            f"{type(solver).__name__} needs order >= 1 and sigma_data > 0, got order={solver.order}, "
            f"sigma_data={solver.sigma_data}."
        )
