"""Warnings about counts name the requested metric, and a metric that cannot be computed raises an error."""

import numpy as np
import pytest

from score_sde.evaluation import counts
from score_sde.metrics import METRICS, FeatureStatistics, Inputs, Reference

EXACT = {d: FeatureStatistics(50_000, np.zeros(d), np.eye(d)) for d in (4, 6)}
POOL = np.random.default_rng(2).normal(size=(2000, 6)).astype(np.float32)


def sampled(count=2000, extractor="inception", rows=None, images=50_000):
    pool = FeatureStatistics(images, EXACT[6].mean, EXACT[6].cov)
    reference = Reference("real", "0", {"pool": pool, "spatial": EXACT[4]}, {"features": extractor}, rows)
    found = {"pool": POOL[:count], "spatial": 2 * POOL[:count, :4], "logits": POOL[:count]}
    return Inputs(found, reference, extractor)


def count_warnings(inputs, names):
    return counts.count_warnings(inputs, [METRICS[name]() for name in names])


def check_counts(names, *arguments):
    counts.check_counts([METRICS[name]() for name in names], *arguments)


def told(text):
    return float(text.split("about ")[1].split(" less")[0])


def test_the_bias_to_expect():
    """2,000 samples of the reference itself: all of the distance is bias."""
    (text,) = count_warnings(sampled(), ["fid"])
    value = FeatureStatistics.of(POOL).frechet_distance(EXACT[6])
    assert text.startswith("fid is of 2,000 samples, and published numbers are of 50,000")
    assert 0.4 * value < told(text) < 1.6 * value
    assert count_warnings(sampled(extractor="pixels"), ["fid"])[0].startswith("fd is of 2,000 samples")


def test_the_bias_of_spatial_features_is_their_own():
    """They are spread four times as widely (in variance) over fewer features."""
    texts = count_warnings(sampled(), ["fid", "sfid"])
    assert [text.split(" is ")[0] for text in texts] == ["fid", "sfid"] and told(texts[1]) > 1.3 * told(texts[0])


@pytest.mark.parametrize(
    ("metric", "text"),
    [
        (
            "fd_infinity",
            "fid_infinity is extrapolated from up to 2,000 samples, and published numbers from 5,000 to 50,000.",
        ),
        ("is", "inception_score is of 2,000 samples in 10 splits, and published numbers are of 50,000 in 10"),
        (
            "prdc",
            "precision, recall, prdc_density and coverage are of 500 of each set, and published numbers of 10,000 or 50,",
        ),
    ],
)
def test_each_metric_has_its_own_warning(metric, text):
    (warning,) = count_warnings(sampled(rows=POOL[:500]), [metric])
    assert warning.startswith(text)


def test_the_kernel_distance_has_no_warning():
    assert count_warnings(sampled(rows=POOL, images=2000), ["kid"]) == []


def test_a_customary_count_has_no_warning():
    many = np.tile(POOL, (25, 1))
    known = sampled()._replace(features={"pool": many, "logits": many})
    assert count_warnings(known, ["fid", "is", "fd_infinity"]) == []


def gaussian(features, count, true):
    """Samples of an exact reference but for a shift, whose Fréchet distance is `true`."""
    pool = np.random.default_rng(0).normal(np.sqrt(true / features), 1, (count, features)).astype(np.float32)
    reference = Reference("real", "0", {"pool": FeatureStatistics(50_000, np.zeros(features), np.eye(features))}, {})
    return Inputs({"pool": pool}, reference, "inception")


@pytest.mark.parametrize(("features", "count", "true"), [(512, 400, 4.7), (64, 100, 0.08), (6, 23, 1.0), (4, 19, 1.0)])
def test_no_figure_where_the_distance_is_no_line(features, count, true):
    """Fewer than four samples for each feature: the line had 37.9 for 4.7, and −6.5 for 0.08."""
    known = gaussian(features, count, true)
    text, fewest = count_warnings(known, ["fid"])[0], max(20, 4 * features)
    assert text.startswith(f"fid is of {count} samples") and "about" not in text
    assert f"would have less; from fewer than {fewest:,} samples it cannot be told how much, as with so few" in text
    with pytest.raises(
        ValueError, match=rf"fd_infinity needs at least {fewest:,} samples( with real, 4 for each|, got)"
    ):
        check_counts(["fd_infinity"], count, known.reference)
    with pytest.raises(
        ValueError, match=rf"extrapolate needs at least {fewest} samples, and smallest >= {fewest // 2}, wi"
    ):
        METRICS["fd_infinity"]().compute(known)


def test_a_figure_where_the_distance_is_a_line():
    """Of 64 features whose eigenvalues fall off, 150 samples are enough: of 16 in effect, and not of 64."""
    known = gaussian(64, 400, 4.7)
    value = FeatureStatistics.of(known.pool).frechet_distance(known.reference.statistics["pool"])
    assert abs(value - told(count_warnings(known, ["fid"])[0]) - 4.7) < 0.15 * (value - 4.7) < 0.3 * value
    scale = 0.8 ** np.arange(64)
    low = known._replace(features={"pool": (known.pool[:150] * scale).astype(np.float32)})
    low.reference.statistics["pool"] = FeatureStatistics(50_000, np.zeros(64), np.diag(scale**2))
    assert "about" in count_warnings(low, ["fid"])[0]
    check_counts(["fd_infinity"], 150, low.reference)


def test_no_forecast_is_below_zero():
    """Of the reference itself the line may cross 0; more than all of the distance is never taken away."""
    for seed in range(8):
        known = sampled(1000)._replace(features={"pool": np.random.default_rng(seed).normal(size=(100, 6))})
        value = FeatureStatistics.of(known.pool).frechet_distance(EXACT[6])
        (text,) = count_warnings(known, ["fid"])
        assert 0 < told(text) <= value * 1.005  # three digits
        result = METRICS["fd_infinity"]().compute(known)["fid_infinity"]
        assert result["value"] >= 0 and result["value"] + result["bias"] == pytest.approx(value)
        assert result["value"] > 0 or "cut at 0, where the line has -" in result["note"]


def test_more_samples_than_published():
    many = sampled()._replace(features={"pool": np.tile(POOL, (30, 1))})
    assert (
        " more (rough" in count_warnings(many, ["fid"])[0]
        or "is less than the noise" in count_warnings(many, ["fid"])[0]
    )


def test_a_small_reference():
    texts = count_warnings(sampled(images=5), ["fid"])
    assert "only 5 images, fewer than the 10,000" in texts[1] and "5 examples cannot tell a covariance of 6" in texts[2]
    assert len(count_warnings(sampled(images=5), ["is"])) == 1  # it has no reference


@pytest.mark.parametrize(("metric", "least"), [("kid", 4), ("prdc", 6), ("fd_infinity", 20), ("fid", 2)])
def test_counts_that_are_refused(metric, least):
    check_counts(["fid", metric], least)
    with pytest.raises(
        ValueError, match=f"needs at least {least} samples, got {least - 1}; raise --num_samples to at least"
    ):
        check_counts([metric], least - 1)


def test_a_reference_that_is_refused():
    reference = sampled(rows=POOL[:5], images=5).reference
    check_counts(["kid"], 100, reference)
    with pytest.raises(ValueError, match="prdc needs at least 6 images in the reference, got 5 in real; name another"):
        check_counts(["prdc"], 100, reference)
