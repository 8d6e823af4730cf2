"""Numbers about samples: features in, numbers out. Everything runs in float64 on the host."""

from score_sde.metrics.classifier import Judgement, KernelClassifier, judge
from score_sde.metrics.features import FeatureStatistics, frechet_distance, oriented_gradients

__all__ = ["FeatureStatistics", "Judgement", "KernelClassifier", "frechet_distance", "judge", "oriented_gradients"]
