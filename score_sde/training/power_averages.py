"""Averages of parameters with a power-function profile, and their reconstruction after training for any width.

After T images, the average weights the parameters at t ≤ T images by p(t) ∝ t^γ. Its width is the
standard deviation of p, divided by T. A width of 0.05 to 0.2 is usual. `ema_decay` with an infinite
half-life and the ramp-up ratio `rampup_ratio(width)` tracks this average, up to terms of second
order in the images of an update divided by t.

Snapshots of two such averages at several times determine the average of every width between theirs,
at every time up to the last snapshot (`reconstruction_weights`, `reconstruct`).

Symbols: γ the exponent, t a number of images, p the profile.

Source: Karras et al., arXiv 2312.02696, Sec. 3 and App. C.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float


def width_of(exponent: float) -> float:
    """√((γ + 1)/((γ + 2)² (γ + 3))), the width of p(t) ∝ t^γ. Source: Eq. 123.

    Raises: ValueError unless γ > −1.
    """
    if not exponent > -1:
        raise ValueError(f"A power-function average needs an exponent > -1, got {exponent}.")
    return math.sqrt((exponent + 1) / (exponent + 3)) / (exponent + 2)


def exponent_of(width: float) -> float:
    """γ, with `width_of`(γ) = width: the largest root of (γ + 2)² (γ + 3) width² = γ + 1. Source: Eq. 126.

    Raises: ValueError unless 0 < width < 1/√12, the width of a constant profile.
    """
    if not 0 < width < 12**-0.5:
        raise ValueError(f"A power-function average needs 0 < width < {12**-0.5:.3f}, got {width}.")
    precision = width**-2
    return float(np.roots([1, 7, 16 - precision, 12 - precision]).real.max())


def power_decay(width: float, images: float, images_per_update: float) -> float:
    """β = (1 − δ/t)^(γ + 1) for the update of δ images that ends at t images. Source: Eq. 127.

    At the first update β is 0, so the parameters at the start are forgotten.
    """
    return (1 - images_per_update / images) ** (exponent_of(width) + 1)


def rampup_ratio(width: float) -> float:
    """ln 2/(γ + 1), the half-life of the power-function average divided by the images seen."""
    return math.log(2) / (exponent_of(width) + 1)


def overlap(t: float, exponent: float, other_t: float, other_exponent: float) -> float:
    """∫ p q of two profiles, with exponents γ and γ', that end at t and t' images. Source: Eq. 151.

    It is (γ + 1) (γ' + 1)/(γ + γ' + 1) · (s/l)^γ_s / l, with s < l the two times and γ_s the
    exponent of the longer profile.
    """
    if t > other_t:
        return overlap(other_t, other_exponent, t, exponent)
    product = (exponent + 1) * (other_exponent + 1) / (exponent + other_exponent + 1)
    return product * (t / other_t) ** other_exponent / other_t


def reconstruction_weights(
    snapshots: Sequence[tuple[float, float]], images: float, width: float
) -> Float[np.ndarray, " snapshots"]:
    """Weights, with sum 1, with which snapshots add up to the average of this width at `images`.

    They minimize the squared distance between the profiles. Snapshots after `images` get 0.

    Args:
      snapshots: (images, width) of each snapshot.
    Raises: ValueError without a snapshot until `images`, or for two snapshots with the same images
      and width.
    Source: Algorithm 3.
    """
    used = [i for i, (t, _) in enumerate(snapshots) if t <= images]
    if not used:
        raise ValueError(f"A reconstruction at {images} images needs a snapshot until then, got {list(snapshots)}.")
    if len({snapshots[i] for i in used}) < len(used):
        raise ValueError(f"A reconstruction needs each pair of images and width once, got {list(snapshots)}.")
    profiles = [(snapshots[i][0], exponent_of(snapshots[i][1])) for i in used]
    target = (images, exponent_of(width))
    gram = np.array([[overlap(*a, *b) for b in profiles] for a in profiles])
    solved = np.linalg.solve(gram, np.array([overlap(*a, *target) for a in profiles]))
    weights = np.zeros(len(snapshots))
    weights[used] = solved / solved.sum()
    return weights


def reconstruct(averages: Sequence[Any], snapshots: Sequence[tuple[float, float]], images: float, width: float) -> Any:
    """The average of this width at `images`: the weighted sum of the averages, in float64, in the types of the first.

    Args:
      averages: the parameters of each snapshot, as trees of arrays on the host.
      snapshots: (images, width) of each.
    Raises: ValueError unless there are as many averages as snapshots, and as
      `reconstruction_weights` does.
    """
    if len(averages) != len(snapshots):
        raise ValueError(
            f"A reconstruction needs one snapshot for each average, got {len(snapshots)} and {len(averages)}."
        )
    weights = reconstruction_weights(snapshots, images, width)

    def total(*leaves: Any) -> np.ndarray:
        pairs = zip(weights, leaves, strict=True)
        value = sum(weight * np.asarray(leaf, np.float64) for weight, leaf in pairs if weight)
        return np.asarray(value).astype(leaves[0].dtype)

    return jax.tree.map(total, *averages)
