"""A classifier that judges generated samples: it is trained on real examples, and recognizes samples or does not.

Far from all training examples the kernel vanishes, and all classes become equally likely. So noise
gets a confidence of about 1/k. A network or a linear classifier would be confident on noise too.
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Float, Float64, Integer

MOST_EXAMPLES = 10_000  # the time grows with the cube (0.8 s of processor time for 1,500), the memory with the square
CHUNK = 2048  # examples classified at once


def flatten(x: Float[np.ndarray | Array, "n *shape"]) -> Float64[np.ndarray, "n d"]:
    """The examples as rows in float64."""
    return np.asarray(x).astype(np.float64).reshape(len(x), -1)


@runtime_checkable
class Classifies(Protocol):
    """A classifier of clean examples."""

    def probabilities(self, x: Float[np.ndarray | Array, "m *shape"]) -> Float[np.ndarray, "m k"]:
        """The probability of each class."""
        ...


@dataclasses.dataclass(frozen=True)
class KernelClassifier:
    """P(class | x) = softmax(T s(x)), with s(x) = Σᵢ k(f(x), f(xᵢ)) wᵢ the kernel ridge regression of one-hot labels.

    k(f, f') is exp(−|f − f'|² / (2 ℓ²)). The classifier is deterministic. `fit` makes it.

    Attributes:
      features: f.
      examples: f(xᵢ) of the training examples, flattened.
      weights: wᵢ, one column per class.
      length: ℓ.
      temperature: T, the inverse temperature that maximizes the likelihood of the leave-one-out
        probabilities.
      leave_one_out_accuracy: the fraction of training examples that the other examples classify
        correctly.
    """

    features: Callable[..., np.ndarray]
    examples: Float64[np.ndarray, "n d"]
    weights: Float64[np.ndarray, "n k"]
    length: float
    temperature: float
    leave_one_out_accuracy: float

    @classmethod
    def fit(
        cls,
        examples: Float[np.ndarray | Array, "n *shape"],
        labels: Integer[np.ndarray | Array, " n"],
        features: Callable[..., np.ndarray] = flatten,
        bandwidth: float = 0.2,
        ridge: float = 0.01,
    ) -> "KernelClassifier":
        """Solves (K + λ I) w = Y − 1/k in closed form, then fits T to the exact leave-one-out scores.

        Args:
          examples: real examples, such as images in [−1, 1].
          labels: the classes 0…k−1. Every class must be present.
          features: f, such as oriented_gradients. None is the plain values.
          bandwidth: ℓ² as a fraction of the median squared distance between features. On the pixels
            of the 8×8 digits, values of 0.1 to 0.4 with λ = 0.001 to 0.1 have the same
            leave-one-out accuracy within 0.003.
          ridge: λ.
        Source: leave-one-out residuals wᵢ / (K + λ I)⁻¹ᵢᵢ, Rasmussen and Williams, Gaussian
          Processes for Machine Learning (2006), Eq. 5.12.
        """
        x, labels = flatten(features(examples)), np.asarray(labels)
        check_training_set(x, labels)
        squared = squared_distances(x, x)
        length = float(np.sqrt(bandwidth * np.median(squared)))
        one_hot = np.eye(labels.max() + 1)[labels]
        inverse = np.linalg.inv(np.exp(-squared / (2 * length**2)) + ridge * np.eye(len(x)))
        target = one_hot - 1 / one_hot.shape[1]
        weights = inverse @ target
        left_out = target - weights / np.diag(inverse)[:, None]
        accuracy = float((left_out.argmax(axis=1) == labels).mean())
        return cls(features, x, weights, length, likeliest_temperature(left_out, labels), accuracy)

    def scores(self, x: Float[np.ndarray | Array, "m *shape"]) -> Float64[np.ndarray, "m k"]:
        """s(x): near 1 − 1/k for a certain class, near −1/k for an excluded class, and 0 far from all examples.

        Raises: ValueError for examples of another size, or values that are not finite.
        """
        f = flatten(self.features(x))
        if f.shape[1] != self.examples.shape[1] or not np.isfinite(f).all():
            raise ValueError(
                f"KernelClassifier needs examples with {self.examples.shape[1]} finite features each, got {f.shape[1]} "
                f"features and {int((~np.isfinite(f)).any(axis=1).sum())} examples that are not finite; "
                "give it images of the kind that it was trained on."
            )
        chunks = [f[i : i + CHUNK] for i in range(0, len(f), CHUNK)]
        kernels = (np.exp(-squared_distances(chunk, self.examples) / (2 * self.length**2)) for chunk in chunks)
        return np.concatenate([kernel @ self.weights for kernel in kernels])

    def probabilities(self, x: Float[np.ndarray | Array, "m *shape"]) -> Float64[np.ndarray, "m k"]:
        """softmax(T s(x))."""
        return np.exp(log_softmax(self.temperature * self.scores(x)))


@dataclasses.dataclass(frozen=True)
class Judgement:
    """The results of a classifier on n samples. Errors are one standard error.

    Attributes:
      count: n.
      confidence: the mean probability of the most likely class, from 1/k (nothing is recognized) to
        1.
      confidence_error: its standard error.
      class_shares: the fraction of the samples in each class, by the most likely class.
      coverage: exp(entropy of class_shares) / k: 1 if all classes are equally frequent, 1/k if only
        one appears.
      accuracy: the fraction of samples whose most likely class is the requested class. None without
        labels.
      accuracy_error: its standard error, from (hits + 1)/(n + 2), so that it is not 0 when all or
        none are right.
    """

    count: int
    confidence: float
    confidence_error: float
    class_shares: Float64[np.ndarray, " k"]
    coverage: float
    accuracy: float | None = None
    accuracy_error: float | None = None


def judge(
    classifier: Classifies,
    samples: Float[np.ndarray | Array, "n *shape"],
    labels: Integer[np.ndarray | Array, " n"] | None = None,
) -> Judgement:
    """Classifies samples. With `labels`, the requested classes, it also measures how often a sample shows its class.

    To interpret the numbers, also judge held-out real examples and noise.
    """
    if len(samples) < 2:
        raise ValueError(f"judge needs at least 2 samples to tell an error, got {len(samples)}.")
    probabilities = classifier.probabilities(samples)
    count, classes = probabilities.shape
    best, likeliest = probabilities.max(axis=1), probabilities.argmax(axis=1)
    shares = np.bincount(likeliest, minlength=classes) / count
    present = shares[shares > 0]
    judgement = Judgement(
        count=count,
        confidence=float(best.mean()),
        confidence_error=float(best.std(ddof=1) / np.sqrt(count)),
        class_shares=shares,
        coverage=float(np.exp(-(present * np.log(present)).sum()) / classes),
    )
    if labels is None:
        return judgement
    hits = int((likeliest == np.asarray(labels)).sum())
    shrunk = (hits + 1) / (count + 2)
    error = float(np.sqrt(shrunk * (1 - shrunk) / count))
    return dataclasses.replace(judgement, accuracy=hits / count, accuracy_error=error)


def check_training_set(x: np.ndarray, labels: np.ndarray) -> None:
    """Raises ValueError unless there are enough finite examples and every class 0…k−1 is present."""
    classes = np.unique(labels)
    if not 2 <= len(x) <= MOST_EXAMPLES or not np.isfinite(x).all():
        raise ValueError(
            f"KernelClassifier needs 2 to {MOST_EXAMPLES} finite training examples, got {len(x)} with "
            f"{int((~np.isfinite(x)).sum())} values that are not finite; pass a subset."
        )
    if len(classes) < 2 or not np.array_equal(classes, np.arange(len(classes))):
        raise ValueError(
            f"KernelClassifier needs labels 0…k−1 with every class present, got {classes.tolist()}; renumber them."
        )


def likeliest_temperature(scores: Float64[np.ndarray, "n k"], labels: np.ndarray) -> float:
    """The T, among 200 values from 0.1 to 1000, that maximizes Σ log softmax(T s)ᵢ at the labels."""
    candidates = np.geomspace(0.1, 1000, 200)
    rows = np.arange(len(labels))
    likelihoods = [log_softmax(candidate * scores)[rows, labels].sum() for candidate in candidates]
    return float(candidates[int(np.argmax(likelihoods))])


def log_softmax(scores: Float64[np.ndarray, "n k"]) -> Float64[np.ndarray, "n k"]:
    """s − log Σ exp s along the classes."""
    shifted = scores - scores.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def squared_distances(x: Float64[np.ndarray, "n d"], y: Float64[np.ndarray, "m d"]) -> Float64[np.ndarray, "n m"]:
    """|xᵢ − yⱼ|², at least 0."""
    return np.maximum((x * x).sum(axis=1)[:, None] + (y * y).sum(axis=1) - 2 * x @ y.T, 0.0)
