"""Steps of the probability flow in l = log(α/σ), half the log-SNR: shared by deterministic solvers.

Let h = l(s) − l(t) and r = l − l(t). The exact solution from t to s can be written with either
answer of the network:

    x_s = α_s/α_t x − σ_s ∫₀ʰ e^(h−r) ε̂(r) dr
        = σ_s/σ_t x + α_s ∫₀ʰ e^(r−h) x̂0(r) dr.

If the answer D stays at D_t, both forms are the DDIM step α_s x̂0 + σ_s ε̂. Every method here
starts from that step and adds a weighted sum of differences D − D_t. Differences lose no digits to
cancellation. Where h is infinite, their sum is 0 instead of ∞ − ∞.

Source: Lu et al., arXiv 2206.00927, Prop. 3.1, and arXiv 2211.01095, Prop. 4.1.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.denoising.estimate import Estimate
from score_sde.internal.broadcast import expand_like
from score_sde.sdes.base import SDE, Time

Times = Float[Array, "..."] | float  # two arguments of this type have the same length, or one of them is a scalar

PREDICTIONS = ("eps", "x0")
TAYLOR_TERMS = 24  # of φ where |z| < 2; the remainder is below 1e-16


def require_one_of(name: str, value: str, allowed: tuple[str, ...], owner: object) -> None:
    """Raises ValueError unless `value`, the field `name` of `owner`, is one of `allowed`."""
    if value not in allowed:
        raise ValueError(f"{type(owner).__name__} needs {name} among {', '.join(allowed)}, got {value!r}.")


def predicted(estimate: Estimate, prediction: str) -> Float[Array, "b *shape"]:
    """The answer D that a method extrapolates: ε̂ for "eps", x̂0 for "x0"."""
    return estimate.eps if prediction == "eps" else estimate.x0


def rise(sde: SDE, t: Times, s: Times) -> Float[Array, "..."]:
    """h = l(s) − l(t) = log(α_s/α_t) + log(σ_t/σ_s).

    The differences of log α and of σ are taken first, as in `SDE.transition`, which keeps the
    digits of a short step.
    """
    sigma_t, sigma_s = sde.sigma(t), sde.sigma(s)
    return jnp.log1p((sigma_t - sigma_s) / sigma_s) + (sde.log_alpha(s) - sde.log_alpha(t))


def ddim(sde: SDE, estimate: Estimate, s: Time) -> Float[Array, "b *shape"]:
    """α_s x̂0 + σ_s ε̂: the exact solution where x̂0 (or ε̂) does not change."""
    x0, eps = estimate
    return expand_like(sde.alpha(s), x0) * x0 + expand_like(sde.sigma(s), eps) * eps


def gain(sde: SDE, s: Time, h: Time, prediction: str) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
    """(c, z) such that the module's integral is c k! φ_{k+1}(z) for the answer D(r) = (r/h)^k."""
    h = jnp.asarray(h)
    return (-sde.sigma(s) * h, h) if prediction == "eps" else (sde.alpha(s) * h, -h)


def transfer(sde: SDE, t: Times, s: Times) -> Float[Array, "..."]:
    """α_s (σ_s/α_s − σ_t/α_t): how far x_s moves for a unit of ε̂.

    The formula does not cancel where s is near t.
    """
    sigma_t = sde.sigma(t)
    return (sde.sigma(s) - sigma_t) - sigma_t * jnp.expm1(sde.log_alpha(s) - sde.log_alpha(t))


def phi(z: Float[Array, "*b"], number: int) -> list[Float[Array, "*b"]]:
    """[φ_1(z), …, φ_number(z)] with φ_k(z) = ∫₀¹ e^((1−θ) z) θ^(k−1)/(k−1)! dθ.

    φ_1 is (e^z − 1)/z, and φ_{k+1} = (φ_k − 1/k!)/z.

    Source: Hochbruck & Ostermann, Exponential integrators, Acta Numerica 19 (2010), Sec. 2.
    """
    # The recursion φ_{k+1} = (φ_k − 1/k!)/z cancels for small |z|. There the Taylor series gives the
    # last φ, and the recursion is solved for φ_k, which does not divide by z. Both branches see
    # harmless values where they are not used, so that no NaN reaches a derivative.
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
