"""How many samples a number needs: too few are refused before they are drawn, and unusual numbers become a warning."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from score_sde.evaluation.references import Reference
from score_sde.evaluation.scores import IS_SPLITS, MOST_NEIGHBOURS, NEIGHBOUR, Sampled
from score_sde.metrics import FeatureStatistics, extrapolate, fewest_samples

CUSTOMARY = 50_000  # samples, in the papers' FID and Inception Score
CUSTOMARY_NEIGHBOURS = (10_000, 50_000)  # of each set, in the papers' precision and recall
FEW = 10_000  # images in a reference
# Of each set: a kernel distance takes disjoint pairs of halves, a ball reaches to the k-th other.
LEAST = {"kid": 4, "prdc": NEIGHBOUR + 1, "fd_infinity": 20}
DISTANCES = ("fid", "sfid", "fd_infinity")


def check_counts(metrics: Sequence[str], num_samples: int, reference: Reference | None = None) -> None:
    """Raises ValueError for fewer samples, or fewer images in a reference, than a metric can be computed from."""
    for name in metrics:
        least = LEAST.get(name, 2)
        if num_samples < least:
            raise ValueError(
                f"{name} needs at least {least} samples, got {num_samples}; raise --num_samples to at least {least}."
            )
        if reference is not None and name == "fd_infinity":
            _check_extrapolation(num_samples, reference)
        if reference is None or name not in ("kid", "prdc"):
            continue
        if reference.num_examples is not None and reference.num_examples < least:
            raise ValueError(
                f"{name} needs at least {least} images in the reference, got {reference.num_examples} in {reference.name}; "
                "name another --reference."
            )


def _check_extrapolation(num_samples: int, reference: Reference) -> None:
    """Raises ValueError for fewer samples than the fit holds for."""
    pool = reference.statistics["pool"]
    fewest = fewest_samples(pool, num_samples)
    if num_samples < fewest:
        raise ValueError(
            f"fd_infinity needs at least {fewest:,} samples with {reference.name}, 4 for each of the features that its "
            f"{len(pool.mean):,} amount to, got {num_samples:,}: with fewer the distance is no line in 1/n, and an "
            "extrapolation is wrong by any amount. Raise --num_samples, or drop fd_infinity."
        )


def count_warnings(sampled: Sampled, metrics: Sequence[str]) -> list[str]:
    """Why the numbers of these metrics cannot be held against published ones, where it can be told with the bias to expect.

    The kernel distance has no bias and no warning.
    """
    count, real, warnings = len(sampled.pool), sampled.reference.num_examples, []
    for name in metrics:
        if name == "fid":
            warnings += _distance(sampled.named(name), sampled.pool, sampled.reference.statistics["pool"])
        elif name == "sfid":
            warnings += _distance(sampled.named(name), sampled.features["spatial"], sampled.reference.spatial(name))
        elif name == "fd_infinity" and count < CUSTOMARY:
            warnings.append(
                f"{sampled.named(name)} is extrapolated from up to {count:,} samples, and published numbers from 5,000 to "
                f"{CUSTOMARY:,}."
            )
        elif name == "is" and count != CUSTOMARY:
            warnings.append(
                f"{sampled.named(name)} is of {count:,} samples in {min(IS_SPLITS, count)} splits, and published numbers are "
                f"of {CUSTOMARY:,} in {IS_SPLITS}: it grows with the number in a split."
            )
        elif name == "prdc":
            warnings += _neighbourhoods(min(count, len(sampled.reference.rows(name)), MOST_NEIGHBOURS))
    if real is not None and real < FEW and set(DISTANCES) & set(metrics):
        warnings.append(
            f"The reference has only {real:,} images, fewer than the {FEW:,} below which its own error dominates; published "
            "references are of the whole training set."
        )
    widths = {"fid": sampled.pool.shape[1], "fd_infinity": sampled.pool.shape[1]}
    widths |= {"sfid": sampled.features["spatial"].shape[1]} if "sfid" in metrics else {}
    for width in dict.fromkeys(widths[name] for name in metrics if name in widths):
        warnings += singular_warning(min(count, real or count), width)
    return warnings


def _distance(name: str, rows: Float[np.ndarray, "n _"], reference: FeatureStatistics) -> list[str]:
    count = len(rows)
    if count == CUSTOMARY:
        return []
    text = f"{name} is of {count:,} samples, and published numbers are of {CUSTOMARY:,}, of which the same model would have "
    fewest = fewest_samples(reference, count)
    if count < fewest:
        text += f"less; from fewer than {fewest:,} samples it cannot be told how much, as with so few for "
        return [f"{text}{rows.shape[1]:,} features the distance is no line in 1/n."]
    fit = extrapolate(rows, reference, points=3)
    here, there = float(fit.distances[-1]), fit.at(CUSTOMARY)
    if fit.bias <= 0:
        return [f"{text}{'less' if count < CUSTOMARY else 'more'}; how much, is less than the noise of {count:,}."]
    change = f"about {here - there:.3g} less" if count < CUSTOMARY else f"about {there - here:.3g} more"
    return [f"{text}{change} (rough: FD(n) = FD∞ + slope/n fitted to three n, and no distance is below 0)."]


def _neighbourhoods(count: int) -> list[str]:
    if count in CUSTOMARY_NEIGHBOURS:
        return []
    usual = " or ".join(f"{number:,}" for number in CUSTOMARY_NEIGHBOURS)
    text = (
        f"precision, recall, prdc_density and coverage are of {count:,} of each set, and published numbers of {usual}"
    )
    return [f"{text}: they depend on it."]


def singular_warning(count: int, dimension: int) -> list[str]:
    """Why the smaller of two sets says little, if it does."""
    if count > dimension:
        return []
    text = (
        f"{count:,} examples cannot tell a covariance of {dimension} features: it is singular, and much of the distance"
    )
    return [f"{text} may be bias."]
