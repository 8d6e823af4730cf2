"""Guidance by any differentiable function of x̂0 or x_t."""

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.denoising.dynamics import Denoise
from score_sde.denoising.estimate import Estimate
from score_sde.guidance.base import Observation, with_x0
from score_sde.guidance.energies import Energy, Quadratic
from score_sde.guidance.tilt import Tilt, Tilted, tilted
from score_sde.internal.broadcast import expand_like
from score_sde.internal.per_example import Weight, norm
from score_sde.internal.pytree import as_pytree, pytree, static
from score_sde.sdes.base import Time

Batch = Float[Array, "b *shape"]
Divisor = Literal["none", "unit", "relative"]


@pytree
class EnergyGuidance(Tilt):
    """Lowers an energy E of each image, in one of three ways. `of` selects the way.

    - "x_t": ∇ log p(x_t) − scale ∇E(x_t, t). Exact for p_t(x_t) exp(−scale E(x_t, t)).
    - "x0_through": ∇ log p(x_t) − scale ∇_{x_t} E(x̂0(x_t), t). It costs a backward pass of the
      network.
    - "x0": x̂0 ← x̂0 − scale ∇E(x̂0, t), `num_steps` times, and ε̂ to match. It needs no gradient
      of the network.

    Attributes:
      energy: a function (x, t) -> E [b].
      of: the argument of the energy, and the way of its gradient into the pair, as above.
      num_steps: the number of gradient steps on x̂0. 1 for the other two ways.
      norm: the divisor of each image's gradient. "none": 1. "unit": the norm of the gradient.
        "relative": the norm of the gradient over the norm of the value that it changes. The change
        of ε̂ (or of x̂0, for "x0") then has `scale` times that norm.

    Raises: ValueError as `Tilt`, and unless num_steps = 1, or num_steps >= 1 for "x0".
    Error: "x0_through" and "x0" replace −log E[exp(−E(x0)) | x_t] by E(E[x0 | x_t]). The difference
      is of the order of the variance of x0 given x_t.
    Source: "x_t": Zhao et al. (EGSDE), arXiv 2207.06635; "x0_through": Bansal et al. (universal
      guidance), arXiv 2302.07121, Sec. 3.1, and Yu et al. (FreeDoM), arXiv 2303.09833; "x0": Bansal
      et al., Sec. 3.2, and He et al. (MPGD), arXiv 2311.16424.
    """

    takes_observation: ClassVar[bool] = False

    energy: Energy | Callable[..., Any] = Quadratic()
    of: Literal["x_t", "x0_through", "x0"] = static(default="x0_through")
    num_steps: int = static(default=1)
    norm: Divisor = static(default="none")

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "energy", as_pytree(self.energy))
        if self.num_steps < 1 or (self.num_steps > 1 and self.of != "x0"):
            raise ValueError(
                f"EnergyGuidance needs num_steps = 1 for of={self.of!r}, and num_steps >= 1 for of='x0', got "
                f"num_steps={self.num_steps}."
            )

    def wrap(self, model: Denoise, observation: Observation) -> Denoise:
        return Tilted(model, self)

    def change(self, model: Denoise, x: Batch, t: Time, given: Array | None) -> tuple[Estimate, Estimate]:
        if self.of == "x0_through":
            estimate, backward = jax.vjp(lambda x: model(x, t), x)
            inner = self._gradient(estimate.x0, t)
            (gradient,) = backward(Estimate(inner, jnp.zeros_like(estimate.eps)))
        else:
            estimate = model(x, t)
            if self.of == "x0":
                return with_x0(model.sde, x, t, estimate, self._descended(model, estimate.x0, t)), estimate
            gradient = self._gradient(x, t)
        # ε̂ changes by σ times the gradient that `tilted` gets.
        sigma = expand_like(model.sde.sigma(t), x)
        gradient = normed(self.norm, gradient, estimate.eps / sigma, model.weight)
        return tilted(model.sde, x, t, estimate, -self.scale * gradient), estimate

    def _descended(self, model: Denoise, x0: Batch, t: Time) -> Batch:
        for _ in range(self.num_steps):
            x0 = x0 - self.scale * normed(self.norm, self._gradient(x0, t), x0, model.weight)
        return x0

    def _gradient(self, x: Batch, t: Time) -> Batch:
        energy: Any = self.energy
        return jax.grad(lambda x: jnp.sum(energy(x, t)))(x)


def normed(divisor: Divisor, gradient: Batch, changed: Batch, weight: Weight = None) -> Batch:
    """The gradient over its norm, times 1 or the norm of the value that it changes. It is 0 where the gradient is 0."""
    if divisor == "none":
        return gradient
    size = _norm(gradient, weight)
    wanted = jnp.ones_like(size) if divisor == "unit" else _norm(changed, weight)
    return gradient * jnp.where(size > 0, wanted / jnp.where(size > 0, size, 1.0), 0.0)


def _norm(x: Batch, weight: Weight) -> Float[Array, "b ..."]:
    return expand_like(norm(x, weight), x)
