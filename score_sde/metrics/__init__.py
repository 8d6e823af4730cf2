"""Numbers about samples: features in, numbers out. Everything but a feature network runs in float64 on the host."""

from score_sde.metrics.classifier import Judgement, KernelClassifier, judge
from score_sde.metrics.dinov2 import dinov2_features
from score_sde.metrics.extrapolation import Extrapolated, extrapolate, fewest_samples
from score_sde.metrics.features import FeatureStatistics, frechet_distance, oriented_gradients
from score_sde.metrics.frechet_error import frechet_standard_error
from score_sde.metrics.inception import InceptionFeatures, inception_features
from score_sde.metrics.inception_score import InceptionScore, inception_score
from score_sde.metrics.kernel_distance import KernelDistance, kernel_distance, squared_mmd
from score_sde.metrics.lpips import lpips_distance, lpips_features
from score_sde.metrics.neighbours import Neighbourhoods, nearest, neighbourhoods, similar_pairs
