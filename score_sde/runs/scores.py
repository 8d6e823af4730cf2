"""Metrics of a set of samples from their features: each a number with what is known of its error.

A result is {"value", and where known "standard_error", "interval", further numbers, "note"}. Only with Inception features does
a number bear a published name, FID, sFID, KID or Inception Score; with others it is fd, sfd, kd, classifier_score.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from score_sde.metrics import (
    Extrapolated,
    FeatureStatistics,
    extrapolate,
    frechet_standard_error,
    inception_score,
    kernel_distance,
    neighbourhoods,
)
from score_sde.runs.references import Reference

Result = dict[str, Any]
MOST_NEIGHBOURS = 10_000  # of each set, for precision and recall
CHEAP = 512  # features: up to here a bootstrap takes seconds
RESAMPLES = 100
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
    """The features of samples by output: "pool" [n, d], and as asked for "spatial" and "logits"."""

    features: Mapping[str, Float[np.ndarray, "n _"]]
    reference: Reference
    extractor: str

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
    statistics, of = FeatureStatistics.of(sampled.pool), sampled.reference.statistics["pool"]
    result: Result = {
        "value": statistics.frechet_distance(of),
        "standard_error": frechet_standard_error(sampled.pool, of),
    }
    spread = "standard error over sets of samples, reference fixed, without the bias of their number"
    if sampled.pool.shape[1] <= CHEAP:
        low, high = bootstrap(sampled.pool, of)
        result["interval"] = [result["value"] + low, result["value"] + high]
        result["note"] = f"{spread}; interval of {RESAMPLES} bootstrap resamples"
    else:
        reach = NORMAL * result["standard_error"]
        result["interval"] = [result["value"] - reach, result["value"] + reach]
        result["note"] = (
            f"{spread}; interval of a normal distribution with it, no bootstrap, for {sampled.pool.shape[1]} features"
        )
    return {sampled.named("fid"): result}


def _sfid(sampled: Sampled) -> dict[str, Result]:
    of, spatial = sampled.reference.spatial("sfid"), sampled.features["spatial"]
    value, error = FeatureStatistics.of(spatial).frechet_distance(of), frechet_standard_error(spatial, of)
    return {sampled.named("sfid"): {"value": value, "standard_error": error}}


def _fd_infinity(sampled: Sampled) -> dict[str, Result]:
    fit = extrapolated(sampled.pool, sampled.reference.statistics["pool"], points=15)
    return {
        sampled.named("fd_infinity"): {
            "value": fit.value,
            "standard_error": fit.standard_error,
            "bias": fit.bias,
            "smallest": int(fit.counts[0]),
            "largest": int(fit.counts[-1]),
            "note": "FD(n) = FD∞ + slope/n; the standard error is of the fit, reference fixed",
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


def bootstrap(pool: Float[np.ndarray, "n d"], reference: FeatureStatistics, seed: int = 0) -> tuple[float, float]:
    """The 2.5 and 97.5 % quantiles of FD* − mean FD* over resamples of the samples.

    Centred, because a resample repeats examples, so that its distance lies above that of the set.
    """
    rows, rng, values = pool.astype(np.float64) - reference.mean, np.random.default_rng(seed), []
    within = rows @ reference.root
    for _ in range(RESAMPLES):
        drawn = rng.integers(len(pool), size=len(pool))
        mean, centred = rows[drawn].mean(axis=0), within[drawn] - within[drawn].mean(axis=0)
        gram = centred.T @ centred if len(pool) > pool.shape[1] else centred @ centred.T
        overlap = np.sqrt(np.maximum(np.linalg.eigvalsh(gram / (len(pool) - 1)), 0)).sum()
        trace = ((rows[drawn] - mean) ** 2).sum() / (len(pool) - 1)
        values.append((mean**2).sum() + trace + np.trace(reference.cov) - 2 * overlap)
    low, high = np.quantile(np.array(values) - np.mean(values), [0.025, 0.975])
    return float(low), float(high)


def extrapolated(rows: Float[np.ndarray, "n _"], reference: FeatureStatistics, points: int) -> Extrapolated:
    """FD∞ from 5,000 of the samples on, as published, or from half of them."""
    return extrapolate(rows, reference, smallest=min(5000, len(rows) // 2), points=points)


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
