import importlib.resources

import numpy as np
import pytest

from score_sde.metrics import KernelClassifier, judge, oriented_gradients
from score_sde.metrics.classifier import likeliest_temperature


@pytest.fixture(scope="module")
def digits():
    """The 8×8 digits that come with the package, in [−1, 1]."""
    with importlib.resources.files("score_sde.data").joinpath("digits.npz").open("rb") as file:
        arrays = np.load(file)
        return arrays["images"].astype(np.float32) / 8 - 1, arrays["labels"].astype(np.int32)


@pytest.fixture(scope="module")
def classifier(digits):
    images, labels = digits
    return KernelClassifier.fit(images[:1500], labels[:1500], features=oriented_gradients)


def two_clouds(count, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    return rng.normal(size=(count, 2)) + 3.0 * labels[:, None], labels


def test_held_out_digits_are_recognized(digits, classifier):
    images, labels = digits
    result = judge(classifier, images[1500:], labels[1500:])
    assert classifier.leave_one_out_accuracy > 0.995
    assert result.accuracy >= 0.97
    assert result.confidence > 0.97
    assert result.coverage > 0.98
    assert abs(result.confidence - result.accuracy) < 3 * result.accuracy_error  # calibrated


def test_noise_and_wrong_labels_are_not(digits, classifier):
    images, labels = digits
    noise = np.clip(np.random.default_rng(0).normal(size=(300, 8, 8, 1)), -1, 1).astype(np.float32)
    nonsense = judge(classifier, noise, labels[:300])
    assert nonsense.confidence < 0.35
    assert abs(nonsense.accuracy - 0.1) < 5 * nonsense.accuracy_error
    assert judge(classifier, images[1500:], (labels[1500:] + 1) % 10).accuracy < 0.02


def test_confidence_falls_as_noise_grows(digits, classifier):
    images = digits[0][1500:]
    noise = np.random.default_rng(0).normal(size=images.shape).astype(np.float32)
    confidences = [judge(classifier, images + np.float32(sigma) * noise).confidence for sigma in (0, 0.3, 0.5, 0.8)]
    assert np.all(np.diff(confidences) < -0.01)


def test_coverage_is_the_effective_share_of_classes(digits, classifier):
    images, labels = digits
    only_threes = judge(classifier, images[:1500][labels[:1500] == 3])
    assert only_threes.class_shares[3] > 0.97
    assert only_threes.coverage == pytest.approx(0.1, abs=0.02)
    assert only_threes.accuracy is None
    half = judge(classifier, images[:1500][labels[:1500] < 5])
    assert half.coverage == pytest.approx(0.5, abs=0.02)


def test_leave_one_out_is_what_leaving_one_out_gives():
    x, labels = two_clouds(30)
    whole = KernelClassifier.fit(x, labels)
    width = whole.length**2 / np.median(((x[:, None] - x) ** 2).sum(axis=-1))
    assert width == pytest.approx(0.2)
    hits = 0
    for i in range(30):
        rest = np.delete(np.arange(30), i)
        median = np.median(((x[rest, None] - x[rest]) ** 2).sum(axis=-1))
        without = KernelClassifier.fit(x[rest], labels[rest], bandwidth=whole.length**2 / median)
        hits += without.scores(x[i : i + 1]).argmax() == labels[i]
    assert whole.leave_one_out_accuracy == pytest.approx(hits / 30)


def test_probabilities_are_those_of_overlapping_clouds():
    x, labels = two_clouds(800)
    classifier = KernelClassifier.fit(x, labels, ridge=1.0)
    fresh, truth = two_clouds(4000, seed=1)
    probabilities = classifier.probabilities(fresh)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    # The best rule errs by Φ(−3/√2) = 1.7 %; the judge may be a little worse and must know it.
    error = (probabilities.argmax(axis=1) != truth).mean()
    assert 0.01 < error < 0.03
    assert abs(1 - probabilities.max(axis=1).mean() - error) < 0.015


def test_far_from_everything_all_classes_are_equal():
    classifier = KernelClassifier.fit(*two_clouds(100))
    np.testing.assert_allclose(classifier.probabilities(np.full((1, 2), 1e3)), 0.5)


def test_temperature_undoes_a_scale():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5000, 4)) * 2
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (chances.cumsum(axis=1) > rng.uniform(size=(5000, 1))).argmax(axis=1)
    assert likeliest_temperature(logits / 7, labels) == pytest.approx(7, rel=0.1)


def test_errors_are_standard_errors():
    classifier = KernelClassifier.fit(*two_clouds(200))
    results = [judge(classifier, *two_clouds(100, seed=i + 1)) for i in range(200)]
    for value, error in (("accuracy", "accuracy_error"), ("confidence", "confidence_error")):
        spread = np.std([getattr(result, value) for result in results])
        assert np.mean([getattr(result, error) for result in results]) == pytest.approx(spread, rel=0.3)
    sure = judge(classifier, np.zeros((10, 2)), np.zeros(10, np.int32))
    assert sure.accuracy == 1
    assert sure.accuracy_error > 0.05


def test_bad_training_sets_are_errors():
    x, labels = two_clouds(10)
    with pytest.raises(
        ValueError, match=r"2 to 10000 finite training examples, got 10 with 1 values that are not finite"
    ):
        KernelClassifier.fit(np.where(np.arange(20).reshape(10, 2) == 3, np.nan, x), labels)
    with pytest.raises(ValueError, match=r"2 to 10000 finite training examples, got 10001 .* pass a subset"):
        KernelClassifier.fit(np.zeros((10_001, 1)), np.zeros(10_001, np.int32))
    with pytest.raises(ValueError, match=r"labels 0…k−1 with every class present, got \[0, 2\]; renumber"):
        KernelClassifier.fit(x, 2 * labels)


def test_bad_samples_are_errors():
    x, labels = two_clouds(10)
    classifier = KernelClassifier.fit(x, labels)
    with pytest.raises(ValueError, match=r"examples with 2 finite features each, got 3 features"):
        classifier.scores(np.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"got 2 features and 1 examples that are not finite"):
        judge(classifier, np.array([[0.0, np.nan], [0.0, 1.0]]))
    with pytest.raises(ValueError, match=r"at least 2 samples to tell an error, got 1"):
        judge(classifier, np.zeros((1, 2)))
