"""One picture of samples of any kind: images with class names, or points and signals on axes."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Shaped, UInt8

from score_sde import plots
from score_sde.data import DataSpec

SHOWN = 100  # the most images of a grid


def sample_picture(
    spec: DataSpec, x: Float[np.ndarray, "n *shape"], condition: Mapping[str, Shaped[np.ndarray, "n *_"]], title: str
) -> UInt8[np.ndarray, "height width 3"] | None:
    """A picture of samples: a grid of the first 100 images, points in the plane, or signals as lines.

    It is None for examples of more than three axes. If an image has more than three channels, the
    first three are shown as red, green and blue.
    """
    labels = None if "label" not in condition else np.asarray(condition["label"])
    if len(spec.shape) == 1:
        return plots.point_picture(x, labels, spec.class_name, title)
    if len(spec.shape) == 2:
        return plots.signal_picture(x, labels, spec.class_name, title)
    if len(spec.shape) > 3:
        return None
    return plots.image_grid(x[:SHOWN, ..., :3], captions=captions(spec, labels, SHOWN), title=title)


def captions(spec: DataSpec, labels: Shaped[np.ndarray, " n"] | None, count: int) -> list[str] | None:
    """The class names of the first `count` images, or None without labels."""
    return None if labels is None else [spec.class_name(int(label)) for label in labels[:count]]
