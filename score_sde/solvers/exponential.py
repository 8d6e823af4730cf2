"""Exponential integrators of the reverse SDE in λ = log(α/σ), with x̂0 interpolated through past steps.

η >= 0 is the amount of noise: η = 0 is the probability flow, and η = 1 is the reverse SDE. With h =
λ_s − λ_t and k = (1 + η) h, the exact solution is

    x_s = (σ_s/σ_t) e^{−ηh} x_t + α_s ∫_0^1 k e^{−k(1−u)} x̂0(λ_t + u h) du + σ_s N,

where N is normal with variance 1 − e^{−2ηh}. Methods differ in how they interpolate x̂0 in u.

Source: Lu et al., arXiv 2211.01095, Sec. 5. With η: Xue et al. (SA-Solver), arXiv 2309.05019, Eq.
  14; the paper's τ² is η.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.sdes.base import SDE
from score_sde.solvers import brownian, history, integrators
from score_sde.solvers.base import Batch, Keys, Scalar

Numbers = Float[Array, " n"] | Sequence[Scalar]


def half_log_snr(sde: SDE, t: Scalar) -> Scalar:
    """λ(t) = log(α/σ)."""
    return 0.5 * sde.log_snr(t)


def times(eta: Scalar | float, h: Scalar) -> Scalar:
    """η h. It is 0 for η = 0, even where h = ±∞."""
    return jnp.where(jnp.asarray(eta) == 0, jnp.zeros_like(h), eta * h)


def moments(k: Scalar, number: int) -> Float[Array, " n"]:
    """∫_0^1 k e^{−k(1−u)} u^j du for j = 0 … number − 1. All are 1 at k = ∞.

    k < 0 is a step towards noise.
    """
    return jnp.where(k == jnp.inf, 1.0, k * integrators.moments(-k, number))


def weights(nodes: Numbers, integrals: Numbers) -> Float[Array, " n"]:
    """w_j with ∫ kernel · P = Σ_j w_j x̂0(u_j), for the polynomial P through x̂0 at the nodes u_j.

    integrals[i] is ∫ kernel · u^i. The first node must be 0. A node at −∞ marks an answer that does
    not exist. That node and all nodes after it get the weight 0, and P has a lower degree.
    """
    nodes, integrals = jnp.stack(list(nodes)), jnp.stack(list(integrals))
    there = jnp.sum(jnp.cumprod(jnp.isfinite(nodes), dtype=jnp.int32))
    # `history.weights` gives the weights of the differences x̂0(u_j) − x̂0(u_0), so the first node
    # takes the rest of integrals[0] = ∫ kernel.
    others = history.weights(nodes[1:], there, integrals)
    return jnp.concatenate([integrals[:1] - jnp.sum(others, keepdims=True), others])


def without_data(
    key: Keys, sde: SDE, x: Batch, t: Scalar, s: Scalar, eta: Scalar | float, s_noise: Scalar | float, path: Any
) -> tuple[Batch, Any]:
    """(the exact solution without its integral over x̂0, path).

    (σ_s/σ_t) e^{−ηh} x + σ_s s_noise N
    """
    noisy = times(eta, integrators.rise(sde, t, s))
    # With the rate η, N is the noise of rate 1 (see `brownian`) in the time ηλ.
    ends = tuple(times(eta, half_log_snr(sde, end)) for end in (t, s))
    (drawn,), path = brownian.increments(key, sde, x, path, ends, (noisy,))
    return sde.sigma(s) / sde.sigma(t) * jnp.exp(-noisy) * x + sde.sigma(s) * s_noise * drawn, path
