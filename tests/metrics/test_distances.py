"""Properties of the metrics by definition, and their errors."""

import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.metrics import (
    FeatureStatistics,
    extrapolate,
    inception_score,
    kernel_distance,
    nearest,
    neighbourhoods,
    neighbours,
    similar_pairs,
    squared_mmd,
)
from score_sde.metrics.extrapolation import effective_features
from tests.independence import assert_independent

RNG = np.random.default_rng(0)


def test_kernel_distance_is_unbiased():
    """Two samples of one distribution: 0 within 5 standard errors of disjoint pairs; a shift is seen."""
    pairs = RNG.standard_normal((200, 2, 20, 8))
    values = np.array([squared_mmd(x, y) for x, y in pairs])
    assert abs(values.mean()) < 5 * values.std() / np.sqrt(len(values))
    assert squared_mmd(pairs[0, 0], pairs[0, 1] + 1) > 20 * values.std()


def test_kernel_distance_draws_its_subsets_from_the_seed():
    x, y = RNG.standard_normal((2, 100, 4))
    first, again, other = (kernel_distance(x, y, 5, 50, seed) for seed in (1, 1, 2))
    assert first == again != other
    assert kernel_distance(x, y, 3, 100).std < 1e-12  # each subset is the whole set


def test_neighbourhoods_do_not_depend_on_the_block(monkeypatch):
    x, y = RNG.standard_normal((60, 5)), RNG.standard_normal((50, 5)) + 0.5
    whole = neighbourhoods(x, y, 3)
    monkeypatch.setattr(neighbours, "BLOCK", 7)
    np.testing.assert_allclose(neighbourhoods(x, y, 3), whole, rtol=1e-12)


def test_neighbourhoods_of_sets_far_apart_and_far_from_the_origin():
    x = RNG.standard_normal((40, 5))
    assert neighbourhoods(x, x + 100, 3) == (0, 0, 0, 0)
    np.testing.assert_allclose(neighbourhoods(x + 1e4, x + 1e4, 3), neighbourhoods(x, x, 3))


def test_nearest():
    x, y = RNG.standard_normal((30, 5)), RNG.standard_normal((20, 5))
    distances = np.linalg.norm(x[:, None] - y[None], axis=2)
    distance, index = nearest(x, y)
    np.testing.assert_allclose(distance, distances.min(axis=1))
    np.testing.assert_array_equal(index, distances.argmin(axis=1))


@pytest.mark.parametrize("block", [7, 2048])
@pytest.mark.parametrize("count", [1, 5, 200, 10_000])
def test_similar_pairs_are_the_most_similar_of_all(monkeypatch, block, count):
    """Against all 780 cosines; rows of any length, one of them zero, two the same."""
    monkeypatch.setattr(neighbours, "BLOCK", block)
    rows = RNG.standard_normal((40, 6)).astype(np.float32) * RNG.uniform(0.1, 10, (40, 1)).astype(np.float32)
    rows[5], rows[31] = 0, 3 * rows[12]
    x = rows.astype(np.float64)
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    i, j = np.triu_indices(40, 1)
    cosines = (unit[i] * unit[j]).sum(axis=1)
    order = np.argsort(-cosines, kind="stable")[:count]
    found, pairs = similar_pairs(rows, count)
    np.testing.assert_allclose(found, cosines[order], atol=1e-12)
    assert pairs[0].tolist() == [12, 31] and len(found) == min(count, 780) == len(set(map(tuple, pairs.tolist())))
    np.testing.assert_allclose((unit[pairs[:, 0]] * unit[pairs[:, 1]]).sum(axis=1), found, atol=1e-12)


def test_inception_score_of_sure_answers_is_the_number_of_classes():
    logits = 100 * np.eye(10)[np.arange(1000) % 10]
    np.testing.assert_allclose(inception_score(logits, 10), (10, 0), atol=1e-9)
    np.testing.assert_allclose(inception_score(np.zeros((10, 5)), 2), (1, 0), atol=1e-12)


def test_inception_score_of_equal_sure_answers_is_one():
    """exp(−800) is 0 in float64, and so are the shares of three classes."""
    logits = np.tile([800.0, 0.0, 0.0, 0.0], (20, 1))
    np.testing.assert_allclose(inception_score(logits, 2), (1, 0), atol=1e-12)


def test_inception_score_of_classes_that_underflow_in_one_split():
    """10 examples of each of two classes that are sure of them: 2; in a split of one of the classes only: 1."""
    logits = 800.0 * np.eye(4)[np.repeat([0, 2], 10)]
    np.testing.assert_allclose(inception_score(logits, 1), (2, 0), atol=1e-12)
    np.testing.assert_allclose(inception_score(logits, 2), (1, 0), atol=1e-12)


METRICS = {
    "squared_mmd": squared_mmd,
    "kernel_distance": lambda x, y: kernel_distance(x, y, 5, 20)[:2],
    "neighbourhoods": neighbourhoods,
    "nearest": nearest,
    "similar_pairs": lambda x, y: similar_pairs(x, 20)[0],
    "inception_score": lambda x, y: inception_score(x, 2),
}


@pytest.mark.parametrize("metric", METRICS)
def test_a_jax_array_is_computed_in_float64_too(metric):
    """Far from the origin, where float32 would lose most digits."""
    x, y = (jnp.asarray(100 + RNG.standard_normal((40, 5)), jnp.float32) for _ in range(2))
    expected = METRICS[metric](np.asarray(x, np.float64), np.asarray(y, np.float64))
    ours = METRICS[metric](x, y)
    for one, other in zip(np.atleast_1d(ours), np.atleast_1d(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    with pytest.raises(
        ValueError, match=rf"{metric} needs finite values, got \[1.* rows with NaN .*; find out which samples diverged"
    ):
        METRICS[metric](x.at[3, 0].set(jnp.inf), y)


@pytest.mark.parametrize("metric", ["squared_mmd", "kernel_distance", "neighbourhoods", "nearest"])
def test_sets_with_different_numbers_of_features(metric):
    x, y = RNG.standard_normal((40, 5)), RNG.standard_normal((40, 4))
    with pytest.raises(
        ValueError,
        match=rf"{metric} needs sets with one number of features, got .*5\), \(40, 4\).*same extractor for both",
    ):
        METRICS[metric](x, y)
    y = RNG.standard_normal((30, 5))
    y[7] = np.nan
    with pytest.raises(ValueError, match=rf"{metric} needs finite values, got \[0, 1\] rows .* of \[40, 30\] examples"):
        METRICS[metric](x, y)


def test_a_ball_is_open():
    """On a line 0, 1, 2, …: with k = 1 each real ball has the radius 1, and its neighbour lies on its edge (<, not <=)."""
    line = np.arange(6.0)[:, None]
    assert neighbourhoods(line, line + 10.0, 1).precision == 0
    assert neighbourhoods(line, line + 6.0, 1) == (0, 0, 0, 0)
    assert neighbourhoods(line, line + 5.75, 1) == (1 / 6, 1 / 6, 1 / 6, 1 / 6)


def test_extrapolation_removes_the_bias():
    """Samples of the reference itself: FD is positive and falls as 1/n, and FD∞ is 0 within its error."""
    exact = FeatureStatistics(10**6, np.zeros(10), np.eye(10))
    result = extrapolate(np.random.default_rng(3).standard_normal((4000, 10)), exact, smallest=400)
    assert result.distances[0] > 3 * result.distances[-1] > 0
    assert abs(result.value) < 5 * result.standard_error and 3 * result.standard_error < result.distances[-1]
    assert result.bias == result.distances[-1] - result.value


def test_the_standard_error_of_an_extrapolation_is_that_of_a_least_squares_line():
    """Against np.polyfit, which takes the variance of the residuals over n − 2 too."""
    exact = FeatureStatistics(10**6, np.zeros(4), np.eye(4))
    result = extrapolate(np.random.default_rng(4).standard_normal((2000, 4)), exact, smallest=500, points=7)
    assert result.counts.tolist() == [500, 750, 1000, 1250, 1500, 1750, 2000]
    line, covariance = np.polyfit(1 / result.counts, result.distances, 1, cov=True)
    np.testing.assert_allclose(result.value, line[1], rtol=1e-9)
    np.testing.assert_allclose(result.standard_error, np.sqrt(covariance[1, 1]), rtol=1e-9)


def test_an_extrapolation_draws_its_samples_anew_for_each_number():
    """Over 400 seeds, the distances at two numbers of the same samples say nothing of each other."""
    features = np.random.default_rng(5).standard_normal((2000, 1))
    exact = FeatureStatistics(10**6, np.full(1, 0.5), np.eye(1))
    seeds = [extrapolate(features, exact, smallest=500, points=3, seed=seed) for seed in range(400)]
    assert seeds[0].counts.tolist() == [500, 1250, 2000]
    assert_independent(few=[seed.distances[0] for seed in seeds], more=[seed.distances[1] for seed in seeds])


def test_effective_features():
    """All of equal eigenvalues, none of 0; by hand for two, of which one is small."""
    assert effective_features(np.array([3.0] * 7 + [0.0])) == pytest.approx(7)
    kappa = np.array([0.5 + 0.1, 0.5 + 0.9])  # of λ = 0.9 and 0.1
    weights = np.array([0.9, 0.1]) * kappa
    assert effective_features(np.array([0.9, 0.1])) == pytest.approx(2 * (weights * kappa).sum() / weights.sum())
    assert effective_features(np.zeros(3)) == 0


def test_the_bias_is_the_sum_that_effective_features_weigh():
    """E FD(n) of the reference itself is (Σᵢⱼ λᵢ λⱼ/(λᵢ + λⱼ)/2 + 5/4 Σᵢ λᵢ) / n to first order."""
    scale, rng, count = np.geomspace(1, 0.1, 5), np.random.default_rng(0), 200
    reference, lam = FeatureStatistics(0, np.zeros(5), np.diag(scale**2)), scale**2
    first_order = (np.outer(lam, lam) / np.add.outer(lam, lam)).sum() / 2 + lam.sum() * 1.25  # the diagonal, the mean
    sets = [FeatureStatistics.of(scale * rng.normal(size=(count, 5))).frechet_distance(reference) for _ in range(400)]
    assert abs(np.mean(sets) * count - first_order) < 5 * np.std(sets) / 20 * count + 0.02 * first_order


def test_errors():
    x = RNG.standard_normal((10, 3))
    more = RNG.standard_normal((30, 3))
    with pytest.raises(ValueError, match="squared_mmd needs at least 2 examples of each, got 10 and 1; give more"):
        squared_mmd(x, x[:1])
    with pytest.raises(ValueError, match=r"subset_size <= 10 .*got 11; give more samples or a smaller subset_size"):
        kernel_distance(x, x, subset_size=11)
    with pytest.raises(
        ValueError, match=r"neighbourhoods needs 1 <= k < 10 .*got 10; give more samples or a smaller k"
    ):
        neighbourhoods(x, x, 10)
    with pytest.raises(ValueError, match=r"inception_score needs 1 <= num_splits <= 10 .*got 11"):
        inception_score(x, 11)
    with pytest.raises(ValueError, match="similar_pairs needs count >= 1, got 0"):
        similar_pairs(x, 0)
    with pytest.raises(ValueError, match=r"extrapolate needs 2 <= smallest < 30 .*got smallest=30"):
        extrapolate(more, FeatureStatistics.of(more), smallest=30)
    with pytest.raises(
        ValueError, match=r"at least 20 samples, and smallest >= 10, .* got 30 samples and smallest=5: from"
    ):
        extrapolate(more, FeatureStatistics.of(more), smallest=5)
