"""Metrics of a set of samples from their features: each a number with what is known of its error.

A result is {"value", and where known "standard_error", "interval", further numbers, "note"}. Only with Inception features does
a distance bear the name FID, KID or Inception Score; with others it is fd, kd.
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
CUSTOMARY = 50_000  # samples, in the papers' FID
FEW = 10_000  # images in a reference
MOST_NEIGHBOURS = 10_000  # of each set, for precision and recall
CHEAP = 512  # features: up to here a bootstrap takes seconds
RESAMPLES = 100
KID_SUBSET, NEIGHBOUR = 1000, 5


class Sampled(NamedTuple):
    """The features of samples by output: "pool" [n, d], and as asked for "spatial" and "logits"."""

    features: Mapping[str, Float[np.ndarray, "n _"]]
    reference: Reference
    extractor: str

    @property
    def pool(self) -> Float[np.ndarray, "n d"]:
        return self.features["pool"]

    def named(self, inception: str, other: str) -> str:
        """The published name, which belongs to Inception features, or another."""
        return inception if self.extractor == "inception" else other

    def rows(self, metric: str) -> Float[np.ndarray, "m d"]:
        """The reference's features. Raises: ValueError where its file does not hold them."""
        if self.reference.features is None:
            raise ValueError(
                f"{metric} needs the features of the reference, and {self.reference.name} holds only their mean and "
                "covariance; make it with `experiments.reference --keep_features`, or say --reference=train."
            )
        return self.reference.features


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
        result["note"] = f"{spread}; no bootstrap, for {sampled.pool.shape[1]} features"
    return {sampled.named("fid", "fd"): result}


def _sfid(sampled: Sampled) -> dict[str, Result]:
    if "spatial" not in sampled.reference.statistics:
        raise ValueError(
            f"sfid needs spatial statistics, which {sampled.reference.name} does not have; make the reference with "
            "experiments.reference, or read ADM's file with mu_s and sigma_s."
        )
    of, spatial = sampled.reference.statistics["spatial"], sampled.features["spatial"]
    value, error = FeatureStatistics.of(spatial).frechet_distance(of), frechet_standard_error(spatial, of)
    return {"sfid": {"value": value, "standard_error": error}}


def _fd_infinity(sampled: Sampled) -> dict[str, Result]:
    fit = _extrapolated(sampled, points=15)
    return {
        sampled.named("fid_infinity", "fd_infinity"): {
            "value": fit.value,
            "standard_error": fit.standard_error,
            "bias": fit.bias,
            "smallest": int(fit.counts[0]),
            "note": "FD(n) = FD∞ + slope/n; the standard error is of the fit, reference fixed",
        }
    }


def _kid(sampled: Sampled) -> dict[str, Result]:
    real = sampled.rows("kid")
    size = min(
        KID_SUBSET, min(len(real), len(sampled.pool)) // 2
    )  # of subsets that are everything, the spread would be 0
    kid = kernel_distance(sampled.pool, real, subset_size=size)
    note = f"100 subsets of {size}, which overlap: the error leaves out which samples were drawn; --seeds covers that"
    result = {"value": kid.mean, "standard_error": kid.standard_error, "subset_size": size, "note": note}
    return {sampled.named("kid", "kd"): result}


def _prdc(sampled: Sampled) -> dict[str, Result]:
    real, generated = sampled.rows("prdc"), sampled.pool
    count = min(len(real), len(generated), MOST_NEIGHBOURS)
    rng = np.random.default_rng(0)  # a source may be in the order of its classes
    parts = [x[np.sort(rng.permutation(len(x))[:count])] for x in (real, generated)]
    shares = neighbourhoods(parts[0], parts[1], k=NEIGHBOUR)
    names = {"precision": "precision", "recall": "recall", "density": "prdc_density", "coverage": "coverage"}
    note = f"{count} of each, k={NEIGHBOUR}"
    return {names[name]: {"value": value, "examples": count, "note": note} for name, value in shares._asdict().items()}


def _is(sampled: Sampled) -> dict[str, Result]:
    splits = min(10, len(sampled.pool))
    score = inception_score(sampled.features["logits"], num_splits=splits)
    return {"inception_score": {"value": score.mean, "split_sd": score.std, "splits": splits}}


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


def _extrapolated(sampled: Sampled, points: int) -> Extrapolated:
    count = len(sampled.pool)
    if count < 20:
        raise ValueError(f"fd_infinity needs at least 20 samples, got {count}; raise --num_samples.")
    smallest = min(5000, count // 2) if count < CUSTOMARY else 5000
    return extrapolate(sampled.pool, sampled.reference.statistics["pool"], smallest=smallest, points=points)


def count_warnings(sampled: Sampled) -> list[str]:
    """Why these numbers cannot be held against published ones, with the bias to expect."""
    warnings, count, real = [], len(sampled.pool), sampled.reference.num_examples
    if count != CUSTOMARY and count >= 20:
        bias = _extrapolated(sampled, points=3).bias
        name = sampled.named("fid", "fd")
        excess = bias * (1 - count / CUSTOMARY)
        warnings.append(
            f"{name} is of {count:,} samples, and published numbers are of {CUSTOMARY:,}, of which the same model would have "
            f"about {excess:.3g} less (rough: FD(n) = FD∞ + slope/n fitted to three n; {bias:.3g} less at n = ∞)."
        )
    if real is not None and real < FEW:
        warnings.append(
            f"The reference has only {real:,} images, fewer than the {FEW:,} below which its own error dominates; published "
            "references are of the whole training set."
        )
    return warnings + singular_warning(min(count, real or count), sampled.pool.shape[1])


def singular_warning(count: int, dimension: int) -> list[str]:
    """Why the smaller of two sets says little, if it does."""
    if count > dimension:
        return []
    return [
        f"{count:,} examples cannot tell a covariance of {dimension} features: it is singular, and the distance mostly bias."
    ]


def over_seeds(results: Sequence[Mapping[str, Result]], seeds: Sequence[int]) -> dict[str, Result]:
    """Of one seed its results; of k the mean, the standard deviation, each value, and the least, called min_of_k."""
    if len(results) == 1:
        return {name: dict(result) for name, result in results[0].items()}
    combined = {}
    for name in results[0]:
        values = np.array([result[name]["value"] for result in results])
        combined[name] = {
            "value": float(values.mean()),
            "sd": float(values.std(ddof=1)),
            "standard_error": float(values.std(ddof=1) / math.sqrt(len(values))),
            f"min_of_{len(values)}": float(values.min()),
            "values": dict(zip(map(str, seeds), values.tolist(), strict=True)),
            "note": f"mean over {len(values)} seeds; the sd is of one seed's value",
        }
    return combined
