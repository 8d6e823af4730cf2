"""Exponential integrators of the reverse SDE in λ = log(α/σ), with x̂0 interpolated through past steps.

With an amount of noise η >= 0 (0: the probability flow, 1: the reverse SDE) the exact solution is

    x_s = (σ_s/σ_t) e^{−ηh} x_t + α_s ∫_0^1 k e^{−k(1−u)} x̂0(λ_t + u h) du + σ_s N,   h = λ_s − λ_t, k = (1 + η) h,

with N of variance 1 − e^{−2ηh}. Methods differ in how they interpolate x̂0 in u.

Source: Lu et al., arXiv 2211.01095, Sec. 5; with η, Xue et al. (SA-Solver), arXiv 2309.05019, Eq. 14, whose τ² is η.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.sdes.base import SDE
from score_sde.solvers.base import Scalar


def half_log_snr(sde: SDE, t: Scalar) -> Scalar:
    """λ(t) = log(α/σ)."""
    return 0.5 * sde.log_snr(t)


def gap(sde: SDE, t: Scalar, s: Scalar) -> Scalar:
    """h = λ(s) − λ(t) > 0 for s < t, from differences that keep the digits of a short step; ∞ at σ_s = 0 or α_t = 0."""
    sigma_t, sigma_s = sde.sigma(t), sde.sigma(s)
    return sde.log_alpha(s) - sde.log_alpha(t) + jnp.log1p((sigma_t - sigma_s) / sigma_s)


def times(eta: Scalar | float, h: Scalar) -> Scalar:
    """η h, and 0 for η = 0 also where h = ±∞."""
    return jnp.where(jnp.asarray(eta) == 0, jnp.zeros_like(h), eta * h)


def moments(k: Scalar, number: int) -> list[Scalar]:
    """∫_0^1 k e^{−k(1−u)} u^j du for j = 0 … number − 1; all 1 at k = ∞. k < 0 is a step towards noise.

    By the recurrence 1 − (j/k)·(the last one), which cancels for small k; there by the series e^{−k} Σ k^{n+1}/(n! (n+j+1)).
    """
    small = jnp.abs(k) < 1
    safe, inside = jnp.where(small, 1.0, k), jnp.where(small, k, 0.0)
    by_recurrence = [-jnp.expm1(-safe)]
    for j in range(1, number):
        by_recurrence.append(1 - j / safe * by_recurrence[-1])
    values = []
    for j, recurrence in enumerate(by_recurrence):
        term, total = inside, inside / (j + 1)
        for n in range(1, 19):
            term = term * inside / n
            total = total + term / (n + j + 1)
        values.append(jnp.where(small, jnp.exp(-inside) * total, recurrence))
    return values


def weights(nodes: list[Scalar], integrals: list[Scalar]) -> Float[Array, " n"]:
    """w_j with ∫ kernel · P = Σ_j w_j x̂0(u_j), for P the polynomial through the nodes u_j and ∫ kernel · u^i = integrals[i].

    The first node is finite; a node at −∞ is not there, nor those after it, and P is of lower degree. By Newton's divided
    differences, each a combination of the values: a row of numbers.
    """
    number = len(nodes)
    unit = jnp.eye(number, dtype=integrals[0].dtype)
    differences, total = list(unit), integrals[0] * unit[0]
    product = [jnp.ones_like(integrals[0])]  # Π (u − u_m), lowest power first
    for level in range(1, number):
        there = [jnp.isfinite(nodes[i + level]) for i in range(number - level)]
        spans = [jnp.where(ok, nodes[i + level] - nodes[i], 1.0) for i, ok in enumerate(there)]
        differences = [
            jnp.where(ok, (differences[i + 1] - differences[i]) / span, 0.0)
            for i, (ok, span) in enumerate(zip(there, spans, strict=True))
        ]
        root = jnp.where(jnp.isfinite(nodes[level - 1]), nodes[level - 1], 0.0)
        shifted, kept = [jnp.zeros_like(product[0]), *product], [root * c for c in product]
        product = [a - b for a, b in zip(shifted, [*kept, jnp.zeros_like(root)], strict=True)]
        total = total + sum(c * i for c, i in zip(product, integrals, strict=False)) * differences[0]
    return total
