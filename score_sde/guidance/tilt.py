"""Guidance by the gradient of a log-density: p(x_t) is multiplied by a function of x_t.

The gradient enters as a shift of the pair (x̂0, ε̂), so it works for every SDE, parameterization
and solver.
"""

import abc

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.denoising.dynamics import Denoise, Evaluations
from score_sde.denoising.estimate import Estimate
from score_sde.guidance.base import Around, Guidance
from score_sde.guidance.interval import check_interval, has_interval, is_inside
from score_sde.internal.broadcast import expand_like
from score_sde.internal.pytree import pytree
from score_sde.sdes.base import SDE, Time


def covariance_gain(sde: SDE, x: Float[Array, "b *shape"], t: Time) -> Float[Array, "..."]:
    """σ²/α, with which Cov[x0 | x_t] = (σ²/α) ∂x̂0/∂x_t. At α = 0, where x̂0 does not depend on x_t, it is 0."""
    alpha, sigma = expand_like(sde.alpha(t), x), expand_like(sde.sigma(t), x)
    return jnp.where(alpha > 0, sigma**2 / jnp.where(alpha > 0, alpha, 1.0), 0.0)


def tilted(
    sde: SDE, x: Float[Array, "b *shape"], t: Time, estimate: Estimate, gradient: Float[Array, "b *shape"]
) -> Estimate:
    """The pair of p_t(x) h(x), with gradient = ∇ log h: ε̂ − σ ∇ log h and x̂0 + σ²/α ∇ log h.

    Where α = 0, x_t contains no information about x0, and x̂0 is not changed.
    """
    x0 = estimate.x0 + covariance_gain(sde, x, t) * gradient
    return Estimate(x0, estimate.eps - expand_like(sde.sigma(t), x) * gradient)


@pytree
class Tilt(Guidance):
    """A rule that changes a pair at noise levels within an interval. It may call the model.

    Attributes:
      scale: the strength. 0 changes nothing.
      log_snr_min: guides only where log(α²/σ²) >= log_snr_min. None: no bound towards noise.
      log_snr_max: guides only where log(α²/σ²) <= log_snr_max. None: no bound towards data.

    Raises: ValueError where log_snr_min > log_snr_max.
    """

    scale: float = 1.0
    log_snr_min: float | None = None
    log_snr_max: float | None = None

    def __post_init__(self):
        check_interval(self)

    @abc.abstractmethod
    def change(
        self, model: Denoise, x: Float[Array, "b *shape"], t: Time, given: Array | None
    ) -> tuple[Estimate, Estimate]:
        """(the changed pair, the model's own pair) at x_t, with one call of the model. `given` is the field of `Tilted`."""

    def extra_evaluations(self, model: Denoise, t: Time) -> Evaluations:
        """The evaluations of the model's network within the interval, beside the one call of the model."""
        return 0


@pytree
class Tilted(Around):
    """`model` under a `Tilt`. `given` is the rule's input for each image, such as its label.

    A call counts the evaluations of the model, and the extra evaluations of the rule within its
    interval. Gradients, and the network of a classifier, are not counted.
    """

    model: Denoise
    rule: Tilt
    given: Array | None = None

    def evaluations(self, t: Time) -> Evaluations:
        """The evaluations of the model, and within the interval the extra ones of the rule."""
        own, extra = self.model.evaluations(t), self.rule.extra_evaluations(self.model, t)
        if isinstance(extra, int) and extra == 0:
            return own
        return jnp.asarray(own) + jnp.where(is_inside(self.rule, self.sde, t), jnp.asarray(extra), 0)

    def __call__(self, x: Float[Array, "b *shape"], t: Time) -> Estimate:
        inside = is_inside(self.rule, self.sde, t)

        def guided(x, t):
            pairs = zip(*self.rule.change(self.model, x, t, self.given), strict=True)
            return Estimate(*(jnp.where(expand_like(inside, x), *each) for each in pairs))

        if not has_interval(self.rule):
            return self.rule.change(self.model, x, t, self.given)[0]
        return jax.lax.cond(jnp.any(inside), guided, self.model, x, t)
