"""Metrics of Gaussian features, where the answers are known, with their errors and warnings."""

import numpy as np
import pytest

from score_sde.evaluation.scores import over_seeds
from score_sde.metrics import (
    METRICS,
    FeatureStatistics,
    FrechetDistance,
    Inputs,
    Reference,
    frechet_distance,
    memorization,
)
from score_sde.metrics.frechet import bootstrap

RNG = np.random.default_rng(0)
REAL = RNG.normal(size=(4000, 6)).astype(np.float32)
EXACT = FeatureStatistics(0, np.zeros(6), np.eye(6))


def sampled(pool, statistics=None, features=None, extractor="pixels", **more):
    reference = Reference("real", "0", {"pool": statistics or EXACT}, {"features": extractor}, features)
    return Inputs({"pool": pool, **more}, reference, extractor)


def score(name, *arguments, **options):
    return METRICS[name]().compute(sampled(*arguments, **options))


def test_frechet_distance_with_its_interval():
    """The interval is as wide as the spread over fresh sets of samples, and lies around the value."""
    pools = [np.random.default_rng(i).normal(0.1, 1.2, (500, 6)).astype(np.float32) for i in range(40)]
    values = [score("fid", pool)["fd"]["value"] for pool in pools]
    result = score("fid", pools[0])["fd"]
    low, high = result["interval"]
    assert low < result["value"] < high and 0.6 < (high - low) / (3.92 * np.std(values)) < 1.6
    statistics = FeatureStatistics.of(pools[0])
    assert result["value"] == frechet_distance(statistics.mean, statistics.cov, EXACT.mean, EXACT.cov)
    repeated = [
        FeatureStatistics.of(pools[0][np.random.default_rng(0).integers(500, size=(100, 500))[i]]) for i in range(100)
    ]
    reach = bootstrap(pools[0], EXACT, 100)
    spread = np.array([s.frechet_distance(EXACT) for s in repeated])
    np.testing.assert_allclose(reach, np.quantile(spread - spread.mean(), [0.025, 0.975]), rtol=1e-6)
    few = bootstrap(pools[0][:5], EXACT, 100)  # fewer samples than features
    assert few[0] < 0 < few[1]
    assert (low, high) == (result["value"] + reach[0], result["value"] + reach[1])


def test_the_resamples_of_an_interval():
    """By default a hundred where they are cheap; any number when asked for, or none."""
    metric = FrechetDistance(cheap=50.0 * 1100 * 60)
    wide, tall = RNG.normal(size=(50, 1100)).astype(np.float32), RNG.normal(size=(70, 1100)).astype(np.float32)
    unit = FeatureStatistics(0, np.zeros(1100), np.eye(1100))
    for pool, resamples, kind in (
        (wide, None, "100 bootstrap resamples"),
        (wide, 60, "60 bootstrap resamples"),
        (wide, 0, "a normal distribution with it; --bootstrap=100"),
        (tall, None, "a normal distribution with it; --bootstrap=100"),
    ):
        result = metric.compute(sampled(pool, unit)._replace(resamples=resamples))["fd"]
        assert f"interval of {kind}" in result["note"]
        reach = 1.96 * result["standard_error"]
        if "normal" in kind:
            np.testing.assert_allclose(
                result["interval"], [result["value"] - reach, result["value"] + reach], rtol=1e-12
            )
        else:
            low, high = bootstrap(pool, unit, resamples or 100)
            assert result["interval"] == [result["value"] + low, result["value"] + high]


def test_names_say_what_the_features_are():
    pool = RNG.normal(size=(200, 6)).astype(np.float32)
    for metric, inception, other in (
        ("fid", "fid", "fd"),
        ("sfid", "sfid", "sfd"),
        ("kid", "kid", "kd"),
        ("is", "inception_score", "classifier_score"),
        ("fd_infinity", "fid_infinity", "fd_infinity"),
    ):
        for extractor, name in (("inception", inception), ("pixels", other)):
            given = sampled(pool, features=REAL, extractor=extractor, spatial=pool, logits=pool)
            given.reference.statistics["spatial"] = EXACT
            assert list(METRICS[metric]().compute(given)) == [name]


def test_extrapolation_takes_the_bias_away():
    """Samples of the reference itself: at n = 600 the distance is bias, and at ∞ it is 0."""
    result = score("fd_infinity", np.random.default_rng(5).normal(size=(600, 6)).astype(np.float32))["fd_infinity"]
    at_n = result["value"] + result["bias"]
    assert at_n > 0.02 and abs(result["value"]) < 0.4 * at_n and result["smallest"] == 300


def test_kernel_distance_and_neighbourhoods():
    same, far = REAL[:1000], REAL[:1000] + 5
    kid = score("kid", same[:200], features=REAL[1000:])["kd"]
    # The error is over overlapping subsets; which 200 samples were drawn adds about 0.02.
    assert abs(kid["value"]) < 5 * (kid["standard_error"] + 0.02) and kid["subset_size"] == 100
    assert score("kid", far[:40], features=REAL[1000:])["kd"]["value"] > 1
    shares = score("prdc", same, features=REAL[1000:])
    assert shares["precision"]["value"] > 0.9 and shares["coverage"]["value"] > 0.9
    assert abs(shares["prdc_density"]["value"] - 1) < 0.1 and shares["recall"]["examples"] == 1000
    assert score("prdc", far, features=REAL[1000:])["precision"]["value"] == 0


def test_neighbourhoods_of_a_part_are_of_a_random_part():
    """Sets in the order of their classes: the first rows of the larger one are of one class."""
    few, many = (REAL[:number] + 50 * np.repeat([0, 1], number // 2)[:, None] for number in (60, 1200))
    few, many = few.astype(np.float32), many.astype(np.float32)
    for shares in (score("prdc", few, features=many), score("prdc", many, features=few)):
        for name in ("precision", "recall", "coverage"):
            assert shares[name]["value"] > 0.7 and shares[name]["examples"] == 60


def test_inception_score_and_spatial_distance():
    logits = 50 * np.eye(8, dtype=np.float32)[np.arange(80) % 8]
    found = score("is", REAL[:80], logits=logits)["classifier_score"]
    assert abs(found["value"] - 8) < 1e-6 and found["splits"] == 10
    both = sampled(REAL[:50], spatial=REAL[:50, :3])
    with pytest.raises(ValueError, match=r"sfid needs spatial statistics, which real does not have"):
        METRICS["sfid"]().compute(both)
    both.reference.statistics["spatial"] = FeatureStatistics.of(REAL[:50, :3])
    assert abs(METRICS["sfid"]().compute(both)["sfd"]["value"]) < 1e-9


@pytest.mark.parametrize("metric", ["kid", "prdc"])
def test_a_reference_without_features(metric):
    with pytest.raises(
        ValueError, match=rf"{metric} needs the features of the reference, and real holds only.*--keep_features"
    ):
        score(metric, REAL[:100])


def test_several_seeds():
    results = [{"fd": {"value": value, "interval": [0, 1]}} for value in (3.0, 1.0, 2.0)]
    assert over_seeds(results[:1], [4])["fd"] == {"value": 3.0, "interval": [0, 1]}
    found = over_seeds(results, [0, 1, 7], {"fd"})["fd"]
    assert found["value"] == 2 and found["sd"] == 1 and found["min_of_3"] == 1
    assert found["values"] == {"0": 3.0, "1": 1.0, "7": 2.0} and abs(found["standard_error"] - 3**-0.5) < 1e-12
    assert "interval" not in found and "the interval of a seed stand" in found["note"]
    shares = [{"recall": {"value": value, "examples": 90, "note": "a"}} for value in (0.5, 0.25)]
    recall = over_seeds(shares, [0, 1], {"fd"})["recall"]
    assert recall["examples"] == 90 and not any(
        field.startswith("min_of") for field in recall
    )  # its least is no record


def test_memorization():
    """Copies are found with their originals; fresh samples are no nearer than held-out images."""
    train, held_out, fresh = REAL[:1500], REAL[1500:2500], REAL[2500:]
    honest = memorization(fresh, train, held_out)
    assert abs(honest["value"] - 0.01) < 0.02
    copies = np.concatenate([fresh[:90], train[[7, 3]] + np.float32(1e-4)])
    result = memorization(copies, train, held_out, first_index=1000)
    assert {(p["sample"], p["training_image"]) for p in result["closest"][:2]} == {(1090, 7), (1091, 3)}
    assert memorization(train[:50], train, held_out)["value"] == 1
