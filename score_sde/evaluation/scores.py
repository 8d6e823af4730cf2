"""Metrics of a set of samples from their features: each a number with what is known of its error.

A result is {"value", and where known "standard_error", "interval", further numbers, "note"}. Only with Inception features does
a number bear a published name, FID, sFID, KID or Inception Score; with others it is fd, sfd, kd, classifier_score.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from score_sde.evaluation.references import Reference
from score_sde.metrics import (
    FeatureStatistics,
    extrapolate,
    frechet_standard_error,
    inception_score,
    kernel_distance,
    neighbourhoods,
)

Result = dict[str, Any]
MOST_NEIGHBOURS = 10_000  # of each set, for precision and recall
CHEAP = 2e10  # n · d · min(n, d) of n samples and d features: up to here a hundred resamples take a minute or less on two cores
RESAMPLES, LEAST_RESAMPLES = 100, 40  # the least, for quantiles of 2.5 %
KID_SUBSET, NEIGHBOUR, IS_SPLITS = 1000, 5, 10
NORMAL = 1.96  # standard errors on each side of a 95 % interval
# metric: its name with Inception features, and with others.
NAMES = {
    "fid": ("fid", "fd"),
    "sfid": ("sfid", "sfd"),
    "kid": ("kid", "kd"),
    "fd_infinity": ("fid_infinity", "fd_infinity"),
    "is": ("inception_score", "classifier_score"),
}
DISTANCES = frozenset(name for metric in NAMES if metric != "is" for name in NAMES[metric])  # the least is the best


class Sampled(NamedTuple):
    """The features of samples by output: "pool" [n, d], and as asked for "spatial" and "logits".

    `resamples` is the number of the bootstrap's, 0 for an interval without one, None for `RESAMPLES` where `CHEAP` allows.
    """

    features: Mapping[str, Float[np.ndarray, "n _"]]
    reference: Reference
    extractor: str
    resamples: int | None = None

    @property
    def pool(self) -> Float[np.ndarray, "n d"]:
        return self.features["pool"]

    def named(self, metric: str) -> str:
        """As `published_name`."""
        return published_name(metric, self.extractor)


def published_name(metric: str, extractor: str) -> str:
    """The name of a metric's number, which is the published one with Inception features only."""
    return NAMES[metric][0 if extractor == "inception" else 1]


def _fid(sampled: Sampled) -> dict[str, Result]:
    return {sampled.named("fid"): _frechet(sampled.pool, sampled.reference.statistics["pool"], sampled.resamples)}


def _sfid(sampled: Sampled) -> dict[str, Result]:
    of, spatial = sampled.reference.spatial("sfid"), sampled.features["spatial"]
    return {sampled.named("sfid"): _frechet(spatial, of, sampled.resamples)}


def _frechet(rows: Float[np.ndarray, "n _"], of: FeatureStatistics, resamples: int | None) -> Result:
    """A Fréchet distance, its standard error, and its interval: of a bootstrap, or else of a normal distribution."""
    value, error = FeatureStatistics.of(rows).frechet_distance(of), frechet_standard_error(rows, of)
    if resamples is None:
        resamples = RESAMPLES if rows.size * min(rows.shape) <= CHEAP else 0
    if resamples:
        low, high = bootstrap(rows, of, resamples)
        kind = f"interval of {resamples} bootstrap resamples"
    else:
        low, high = -NORMAL * error, NORMAL * error
        kind = (
            f"interval of a normal distribution with it; --bootstrap={RESAMPLES} resamples instead, which takes minutes"
        )
    return {
        "value": value,
        "standard_error": error,
        "interval": [max(0.0, value + low), max(0.0, value + high)],  # as no distance is below
        "note": f"standard error over sets of samples, reference fixed, without the bias of their number; {kind}",
    }


def _fd_infinity(sampled: Sampled) -> dict[str, Result]:
    fit = extrapolate(sampled.pool, sampled.reference.statistics["pool"], points=15)
    value = max(0.0, fit.value)
    cut = f"; cut at 0, where the line has {fit.value:.3g}" if fit.value < 0 else ""
    return {
        sampled.named("fd_infinity"): {
            "value": value,
            "standard_error": fit.standard_error,
            "bias": float(fit.distances[-1]) - value,
            "smallest": int(fit.counts[0]),
            "largest": int(fit.counts[-1]),
            "note": f"FD(n) = FD∞ + slope/n; the standard error is of the fit, reference fixed{cut}",
        }
    }


def _kid(sampled: Sampled) -> dict[str, Result]:
    real = sampled.reference.rows("kid")
    size = min(
        KID_SUBSET, min(len(real), len(sampled.pool)) // 2
    )  # of subsets that are everything, the spread would be 0
    kid = kernel_distance(sampled.pool, real, subset_size=size)
    note = f"100 subsets of {size}, which overlap: the error leaves out which samples were drawn; --seeds covers that"
    result = {"value": kid.mean, "standard_error": kid.standard_error, "subset_size": size, "note": note}
    return {sampled.named("kid"): result}


def _prdc(sampled: Sampled) -> dict[str, Result]:
    real, generated = sampled.reference.rows("prdc"), sampled.pool
    count = min(len(real), len(generated), MOST_NEIGHBOURS)
    rng = np.random.default_rng(0)  # a source may be in the order of its classes
    parts = [x[np.sort(rng.permutation(len(x))[:count])] for x in (real, generated)]
    shares = neighbourhoods(parts[0], parts[1], k=NEIGHBOUR)
    names = {"precision": "precision", "recall": "recall", "density": "prdc_density", "coverage": "coverage"}
    note = f"{count} of each, k={NEIGHBOUR}"
    return {names[name]: {"value": value, "examples": count, "note": note} for name, value in shares._asdict().items()}


def _is(sampled: Sampled) -> dict[str, Result]:
    splits = min(IS_SPLITS, len(sampled.pool))
    score = inception_score(sampled.features["logits"], num_splits=splits)
    return {sampled.named("is"): {"value": score.mean, "split_sd": score.std, "splits": splits}}


class Metric(NamedTuple):
    """How a metric is computed, and the outputs of the extractor that it needs."""

    compute: Callable[[Sampled], dict[str, Result]]
    outputs: tuple[str, ...] = ("pool",)


FEATURE_METRICS: dict[str, Metric] = {
    "fid": Metric(_fid),
    "kid": Metric(_kid),
    "prdc": Metric(_prdc),
    "is": Metric(_is, ("pool", "logits")),
    "sfid": Metric(_sfid, ("pool", "spatial")),
    "fd_infinity": Metric(_fd_infinity),
}


def bootstrap(
    pool: Float[np.ndarray, "n d"], reference: FeatureStatistics, resamples: int, seed: int = 0
) -> tuple[float, float]:
    """The 2.5 and 97.5 % quantiles of FD* − mean FD* over resamples of the samples.

    Centred, because a resample repeats examples, so that its distance lies above that of the set. An example that was drawn
    w times has a weight of w: the others cost nothing. A resample of 50,000 samples with 2,048 features takes about 3 s on
    two cores, most of it in the covariance and its eigenvalues; all of them together 3 GB.

    Source: Efron, Bootstrap methods: another look at the jackknife (1979).
    """
    count, rng, values = len(pool), np.random.default_rng(seed), []
    rows = pool.astype(np.float64) - reference.mean
    squares, within, trace = np.einsum("nd,nd->n", rows, rows), reference.within(rows), np.trace(reference.cov)
    for _ in range(resamples):
        weights = np.bincount(rng.integers(count, size=count), minlength=count)
        drawn = np.flatnonzero(weights)
        mean = weights @ rows / count
        centred = (within[drawn] - weights @ within / count) * np.sqrt(weights[drawn])[:, None]
        gram = centred.T @ centred if len(drawn) > centred.shape[1] else centred @ centred.T
        overlap = np.sqrt(np.maximum(np.linalg.eigvalsh(gram / (count - 1)), 0)).sum()
        spread = (weights @ squares - count * (mean**2).sum()) / (count - 1)
        values.append((mean**2).sum() + spread + trace - 2 * overlap)
    low, high = np.quantile(np.array(values) - np.mean(values), [0.025, 0.975])
    return float(low), float(high)


def over_seeds(results: Sequence[Mapping[str, Result]], seeds: Sequence[int]) -> dict[str, Result]:
    """Of one seed its results; of k the mean, the standard deviation, each value, and of distances the least, min_of_k.

    Counts and digests that are those of every seed stay.
    """
    if len(results) == 1:
        return {name: dict(result) for name, result in results[0].items()}
    combined: dict[str, Result] = {}
    for name in results[0]:
        values = np.array([result[name]["value"] for result in results])
        fixed = {field: v for field, v in results[0][name].items() if isinstance(v, int | str) and field != "note"}
        combined[name] = {
            **{field: v for field, v in fixed.items() if all(result[name].get(field) == v for result in results)},
            "value": float(values.mean()),
            "sd": float(values.std(ddof=1)),
            "standard_error": float(values.std(ddof=1) / math.sqrt(len(values))),
            "values": dict(zip(map(str, seeds), values.tolist(), strict=True)),
            "note": f"mean over {len(values)} seeds; the sd is of one seed's value",
        }
        if name in DISTANCES:
            combined[name][f"min_of_{len(values)}"] = float(values.min())
        left_out = [field for field in ("interval", "bias") if field in results[0][name]]
        if left_out:
            combined[name]["note"] += f"; the {' and the '.join(left_out)} of a seed stand in a row of that seed alone"
    return combined
