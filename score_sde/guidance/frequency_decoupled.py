"""Frequency-decoupled guidance (FDG): a scale of its own for each band of frequencies."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.denoising.estimate import Estimate
from score_sde.denoising.memory import Memory
from score_sde.guidance.contrast import NullContrast
from score_sde.guidance.scaled import Place, Predicts, moved_std
from score_sde.internal.broadcast import expand_like
from score_sde.internal.per_example import per_example
from score_sde.internal.pytree import pytree, static

BLUR = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)

Images = Float[Array, "b ..."]  # [b, *space, c]; the sides differ between levels


@pytree
class FrequencyDecoupled(NullContrast):
    """Each band of y is y_i(∅) + w_i · (y_i(c) − y_i(∅)), with w_i = 1 + weights[i] (scale − 1).

    The bands are the levels of a Laplacian pyramid, from the finest to the coarsest: y_i is level i
    minus the next level, doubled in size. A smaller weight for coarse levels keeps the colors and
    the composition of the conditional model, and guides the details. scale = 1 is the conditional
    model. The paper's w_high and w_low are w_0 and w_1.

    Attributes:
      weights: one number for each level, from the finest. Equal weights are classifier-free
        guidance.
      parallel: for each level, the fraction of y_i(c) − y_i(∅) along y_i(c) that is kept, as η of
        `APG`. None: 1 for each.
      rescale_levels: φ for each level, as `rescale` for the whole value. None: 0 for each.
      predicts: the value y that is combined. It matters only with `parallel` or `rescale_levels`.

    Raises: ValueError as `Scaled`, for a model without a condition, for another number of values
      than weights, and for images whose sides the levels cannot halve.
    Source: Sadat et al., arXiv 2506.19713, Algorithm 1; Burt and Adelson 1983 for the pyramid, with
      bilinear resampling as in kornia.
    """

    weights: Sequence[int | float] = (1.0, 0.4)
    parallel: Sequence[int | float] | None = None
    rescale_levels: Sequence[int | float] | None = None
    predicts: Predicts = static(default="x0")

    def __post_init__(self):
        super().__post_init__()
        for name in ("weights", "parallel", "rescale_levels"):
            values = getattr(self, name)
            if values is None:
                continue
            object.__setattr__(self, name, tuple(float(value) for value in values))
            if not 1 <= len(values) == len(self.weights):
                raise ValueError(
                    "FrequencyDecoupled needs at least one level, and as many values as weights, got "
                    f"{name}={tuple(values)}, weights={tuple(self.weights)}."
                )

    def combine(self, place: Place, positive: Estimate, negative: Estimate, memory: Memory | None) -> Estimate:
        given, null = (place.value(self.predicts, each) for each in (positive, negative))
        levels = len(self.weights)
        pairs = zip(_pyramid(given, levels), _pyramid(null, levels), strict=True)
        changes = [self._change(place, i, *bands) for i, bands in enumerate(pairs)]
        return place.shifted(self.predicts, positive, _image(changes))

    def _change(self, place: Place, level: int, given: Images, null: Images) -> Images:
        """The value that is added to the conditional model's band."""
        difference = given - null
        if self.parallel is not None:
            square = per_example(given * given)
            share = per_example(difference * given) / jnp.where(square > 0, square, 1.0)
            difference = difference + (self.parallel[level] - 1) * expand_like(share, given) * given
        change = self.weights[level] * (place.scale - 1) * difference
        if self.rescale_levels is not None:
            change = change + moved_std(given, given + change, self.rescale_levels[level])
        return change


def _pyramid(images: Images, levels: int) -> list[Images]:
    """The bands, from the finest. `_image` is its inverse."""
    factor, space = 2 ** (levels - 1), images.shape[1:-1]
    if levels > 1 and (not space or any(side % factor or side < 2 * factor for side in space)):
        raise ValueError(
            f"FrequencyDecoupled with {levels} levels needs images whose sides are multiples of {factor}, at least "
            f"{2 * factor}, got the shape {images.shape[1:]}; use fewer weights, or classifier_free."
        )
    bands = []
    for _ in range(levels - 1):
        coarse = _halved(images)
        bands.append(images - _doubled(coarse))
        images = coarse
    return [*bands, images]


def _image(bands: Sequence[Images]) -> Images:
    found = bands[-1]
    for band in reversed(bands[:-1]):
        found = _doubled(found) + band
    return found


def _blurred(images: Images) -> Images:
    """The binomial filter of 5 along each axis of space, with reflection at the borders."""
    for axis in range(1, images.ndim - 1):
        side = images.shape[axis]
        widths = [(2, 2) if i == axis else (0, 0) for i in range(images.ndim)]
        padded = jnp.pad(images, widths, mode="reflect")
        shifted = [jnp.take(padded, jnp.arange(i, i + side), axis=axis) for i in range(5)]
        images = sum((weight * each for weight, each in zip(BLUR, shifted, strict=True)), jnp.zeros_like(images))
    return images


def _halved(images: Images) -> Images:
    """Blurred, then the mean of each two neighbours."""
    images = _blurred(images)
    for axis in range(1, images.ndim - 1):
        shape = (*images.shape[:axis], images.shape[axis] // 2, 2, *images.shape[axis + 1 :])
        images = jnp.mean(images.reshape(shape), axis=axis + 1)
    return images


def _doubled(images: Images) -> Images:
    """Linear interpolation at the centres of half pixels, then blurred."""
    for axis in range(1, images.ndim - 1):
        side = images.shape[axis]
        before = jnp.take(images, jnp.maximum(jnp.arange(side) - 1, 0), axis=axis)
        after = jnp.take(images, jnp.minimum(jnp.arange(side) + 1, side - 1), axis=axis)
        both = jnp.stack([0.25 * before + 0.75 * images, 0.75 * images + 0.25 * after], axis=axis + 1)
        images = both.reshape(*images.shape[:axis], 2 * side, *images.shape[axis + 1 :])
    return _blurred(images)
