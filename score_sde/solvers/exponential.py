"""Exponential integrators of the reverse SDE in λ = log(α/σ), with x̂0 interpolated through past steps.

With an amount of noise η >= 0 (0: the probability flow, 1: the reverse SDE) the exact solution is

    x_s = (σ_s/σ_t) e^{−ηh} x_t + α_s ∫_0^1 k e^{−k(1−u)} x̂0(λ_t + u h) du + σ_s N,   h = λ_s − λ_t, k = (1 + η) h,

with N of variance 1 − e^{−2ηh}. Methods differ in how they interpolate x̂0 in u.

Source: Lu et al., arXiv 2211.01095, Sec. 5; with η, Xue et al. (SA-Solver), arXiv 2309.05019, Eq. 14, whose τ² is η.
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
    """η h, and 0 for η = 0 also where h = ±∞."""
    return jnp.where(jnp.asarray(eta) == 0, jnp.zeros_like(h), eta * h)


def moments(k: Scalar, number: int) -> Float[Array, " n"]:
    """∫_0^1 k e^{−k(1−u)} u^j du for j = 0 … number − 1; all 1 at k = ∞. k < 0 is a step towards noise."""
    return jnp.where(k == jnp.inf, 1.0, k * integrators.moments(-k, number))


def weights(nodes: Numbers, integrals: Numbers) -> Float[Array, " n"]:
    """w_j with ∫ kernel · P = Σ_j w_j x̂0(u_j), for P the polynomial through the nodes u_j and ∫ kernel · u^i = integrals[i].

    The first node is 0; a node at −∞ is not there, nor those after it, and P is of lower degree.
    """
    nodes, integrals = jnp.stack(list(nodes)), jnp.stack(list(integrals))
    there = jnp.sum(jnp.cumprod(jnp.isfinite(nodes), dtype=jnp.int32))
    others = history.weights(nodes[1:], there, integrals)
    return jnp.concatenate([integrals[:1] - jnp.sum(others, keepdims=True), others])


def without_data(
    key: Keys, sde: SDE, x: Batch, t: Scalar, s: Scalar, eta: Scalar | float, s_noise: Scalar | float, path: Any
) -> tuple[Batch, Any]:
    """((σ_s/σ_t) e^{−ηh} x + σ_s s_noise N, path): the solution less the integral over x̂0."""
    noisy = times(eta, integrators.rise(sde, t, s))
    ends = tuple(times(eta, half_log_snr(sde, end)) for end in (t, s))
    (drawn,), path = brownian.increments(key, sde, x, path, ends, (noisy,))
    return sde.sigma(s) / sde.sigma(t) * jnp.exp(-noisy) * x + sde.sigma(s) * s_noise * drawn, path
