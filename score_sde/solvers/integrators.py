"""What the deterministic solvers share: steps of the probability flow in l = log(α/σ), half the log-SNR.

Between t and s, with h = l(s) − l(t), the exact solution is, by either of the network's two answers,

  x_s = α_s/α_t x − σ_s ∫₀ʰ e^(h−r) ε̂(r) dr = σ_s/σ_t x + α_s ∫₀ʰ e^(r−h) x̂0(r) dr,

r being l minus l(t). Where the answer D stays D_t, both are the step of DDIM, α_s x̂0 + σ_s ε̂; so every method here adds to
that step a weighted sum of differences D − D_t, which does not cancel and is 0, not ∞ − ∞, where h is infinite.

Source: Lu et al., arXiv 2206.00927, Prop. 3.1, and arXiv 2211.01095, Prop. 4.1.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.denoising.estimate import Estimate
from score_sde.internal.broadcast import expand_like
from score_sde.sdes.base import SDE, Time

Times = Float[Array, "..."] | float  # one or several, as many as the other argument has, or one against several

PREDICTIONS = ("eps", "x0")
TAYLOR_TERMS = 24  # of φ below |z| = 2: the rest is below 1e-16


def require_one_of(name: str, value: str, allowed: tuple[str, ...], owner: object) -> None:
    """Raises ValueError unless `value`, the field `name` of `owner`, is one of `allowed`."""
    if value not in allowed:
        raise ValueError(f"{type(owner).__name__} needs {name} among {', '.join(allowed)}, got {value!r}.")


def predicted(estimate: Estimate, prediction: str) -> Float[Array, "b *shape"]:
    """The answer that a method extrapolates: ε̂ or x̂0."""
    return estimate.eps if prediction == "eps" else estimate.x0


def rise(sde: SDE, t: Times, s: Times) -> Float[Array, "..."]:
    """l(s) − l(t) = log(α_s/α_t) + log(σ_t/σ_s), from differences of log α and σ as in `SDE.transition`."""
    sigma_t, sigma_s = sde.sigma(t), sde.sigma(s)
    return jnp.log1p((sigma_t - sigma_s) / sigma_s) + (sde.log_alpha(s) - sde.log_alpha(t))


def ddim(sde: SDE, estimate: Estimate, s: Time) -> Float[Array, "b *shape"]:
    """α_s x̂0 + σ_s ε̂, the exact solution where x̂0 (or ε̂) does not change."""
    x0, eps = estimate
    return expand_like(sde.alpha(s), x0) * x0 + expand_like(sde.sigma(s), eps) * eps


def gain(sde: SDE, s: Time, h: Time, prediction: str) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
    """(c, z) such that the integral of the module's equations for D(r) = (r/h)^k is c k! φ_{k+1}(z)."""
    h = jnp.asarray(h)
    return (-sde.sigma(s) * h, h) if prediction == "eps" else (sde.alpha(s) * h, -h)


def transfer(sde: SDE, t: Times, s: Times) -> Float[Array, "..."]:
    """α_s (σ_s/α_s − σ_t/α_t), by which x_s moves for a unit of ε̂, without cancelling where s is near t."""
    sigma_t = sde.sigma(t)
    return (sde.sigma(s) - sigma_t) - sigma_t * jnp.expm1(sde.log_alpha(s) - sde.log_alpha(t))


def phi(z: Float[Array, "*b"], number: int) -> list[Float[Array, "*b"]]:
    """[φ_1(z), …, φ_number(z)], φ_k(z) = ∫₀¹ e^((1−θ) z) θ^(k−1)/(k−1)! dθ, so that φ_1 = (e^z − 1)/z.

    By φ_{k+1} = (φ_k − 1/k!)/z where |z| >= 2; below, where that cancels, by the Taylor series of the last one and the
    recursion backwards. Source: Hochbruck & Ostermann, Exponential integrators, Acta Numerica 19 (2010), Sec. 2.
    """
    small = jnp.abs(z) < 2
    near, far = jnp.where(small, z, 0.0), jnp.where(small, 2.0, z)
    series = jnp.zeros_like(near)
    for j in reversed(range(TAYLOR_TERMS)):
        series = series * near + 1 / math.factorial(j + number)
    downwards, upwards = [series], [jnp.expm1(far) / far]
    for k in range(1, number):
        downwards.insert(0, downwards[0] * near + 1 / math.factorial(number - k))
        upwards.append((upwards[-1] - 1 / math.factorial(k)) / far)
    return [jnp.where(small, a, b) for a, b in zip(downwards, upwards, strict=True)]


def moments(z: Float[Array, "*b"], number: int) -> Float[Array, "k *b"]:
    """∫₀¹ e^((1−θ) z) θ^k dθ = k! φ_{k+1}(z), for k = 0 … number − 1."""
    return jnp.stack([math.factorial(k) * value for k, value in enumerate(phi(z, number))])
