"""The settings that rules with a scale share: the scale and its schedule, an interval of log-SNR, and rescaling."""

from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from score_sde.denoising.estimate import Estimate
from score_sde.denoising.parameterizations import PARAMETERIZATIONS, Parameterization
from score_sde.guidance.base import Guidance
from score_sde.guidance.interval import check_interval, is_inside
from score_sde.guidance.schedules import Schedule
from score_sde.internal.broadcast import expand_like
from score_sde.internal.per_example import Weight, std
from score_sde.internal.pytree import pytree, static
from score_sde.sdes.base import SDE, Scalar, Time

Predicts = Literal["eps", "x0", "v", "flow"]


def reading(predicts: Predicts) -> Parameterization:
    """The functions that convert between a value of this name and the pair (x̂0, ε̂)."""
    member: Any = PARAMETERIZATIONS[predicts]
    found: Parameterization = member()
    return found


class Place(NamedTuple):
    """The point at which answers are combined.

    Attributes:
      scale: the scale, shaped to multiply x.
      inside: which images are in the interval, shaped to multiply x.
      weight: 0 where x is padding, see `Denoise`.
    """

    sde: SDE
    x: Float[Array, "b *shape"]
    t: Time
    scale: Float[Array, "..."]
    inside: Bool[Array, "..."]
    weight: Weight = None

    def value(self, predicts: Predicts, estimate: Estimate) -> Float[Array, "b *shape"]:
        """The output that a network of this parameterization would have given."""
        return reading(predicts).target(*estimate, self.t, self.sde)

    def shifted(self, predicts: Predicts, estimate: Estimate, shift: Float[Array, "b *shape"]) -> Estimate:
        """The pair after `shift` is added to that value. A shift of zero changes no bit."""
        change = reading(predicts).decode(shift, jnp.zeros_like(self.x), self.t, self.sde)
        return Estimate(estimate.x0 + change.x0, estimate.eps + change.eps)


@pytree
class Scaled(Guidance):
    """A rule that moves an answer by `scale`, at noise levels within an interval.

    Attributes:
      scale: the guidance scale. 1 changes nothing.
      log_snr_min: guides only where log(α²/σ²) >= log_snr_min. None: no bound towards noise.
      log_snr_max: guides only where log(α²/σ²) <= log_snr_max. None: no bound towards data.
      schedule: w(λ) over λ = log(α²/σ²), which makes the scale 1 + w (scale − 1). None: w = 1.
      rescale: φ in [0, 1]. The guided value y of each image is multiplied by φ std(plain)/std(y) +
        1 − φ, where the plain value is the conditional model's. None: 0.
      rescale_of: the value that `rescale` multiplies. The networks of arXiv 2305.08891 predict v.

    Raises: ValueError where log_snr_min > log_snr_max or rescale is outside of [0, 1].
    Source: the interval: Kynkäänniemi et al., arXiv 2404.07724; `rescale`: Lin et al., arXiv
      2305.08891, Sec. 3.4.
    """

    scale: float = 1.0
    log_snr_min: float | None = None
    log_snr_max: float | None = None
    schedule: Schedule | None = None
    rescale: float | None = None
    rescale_of: Predicts = static(default="v")

    def __post_init__(self):
        check_interval(self)
        if self.rescale is not None and not 0 <= self.rescale <= 1:
            raise ValueError(
                f"{type(self).__name__} needs 0 <= rescale <= 1, got rescale={self.rescale}; None is without."
            )

    def place(self, sde: SDE, x: Float[Array, "b *shape"], t: Time, weight: Weight = None) -> Place:
        """The scale at t, and whether t is in the interval."""
        share = 1.0 if self.schedule is None else self.schedule(sde.log_snr(jnp.asarray(t)))
        scale = 1 + share * (self.scale - 1)
        inside = is_inside(self, sde, t)
        return Place(sde, x, t, expand_like(jnp.asarray(scale, x.dtype), x), expand_like(inside, x), weight)

    def limited(self, place: Place, plain: Estimate, outside: Estimate, guided: Estimate) -> Estimate:
        """`guided` with its standard deviation moved to `plain`, and `outside` where an image is not in the interval."""
        found = self._rescaled(place, plain, guided)
        return Estimate(*(jnp.where(place.inside, *values) for values in zip(found, outside, strict=True)))

    def _rescaled(self, place: Place, plain: Estimate, guided: Estimate) -> Estimate:
        if self.rescale is None:
            return guided
        wanted, value = (place.value(self.rescale_of, each) for each in (plain, guided))
        return place.shifted(self.rescale_of, guided, moved_std(wanted, value, self.rescale, place.weight))


def moved_std(
    wanted: Float[Array, "b *shape"],
    value: Float[Array, "b *shape"],
    share: Scalar | float,
    weight: Weight = None,
) -> Float[Array, "b *shape"]:
    """The change of `value` that moves its standard deviation in each image to the one of `wanted`, times `share`."""
    ratio = expand_like(std(wanted, weight) / std(value, weight), value)
    return share * (ratio - 1) * value
