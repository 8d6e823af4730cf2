"""Metrics of samples and models. A metric is one class in one file, with its mathematics and its features beside it.

Everything except feature networks runs in float64 on the host.
"""

from collections.abc import Callable

from score_sde.metrics.base import Inputs, Metric, Model, Needs, Result
from score_sde.metrics.classifier import Judgement, KernelClassifier, judge
from score_sde.metrics.density_kl import DensityKL
from score_sde.metrics.extrapolation import Extrapolated, extrapolate, fewest_samples
from score_sde.metrics.fd_infinity import FDInfinity
from score_sde.metrics.features.dinov2 import dinov2_features
from score_sde.metrics.features.inception import InceptionFeatures, inception_features
from score_sde.metrics.features.lpips import lpips_distance, lpips_features
from score_sde.metrics.features.oriented_gradients import oriented_gradients
from score_sde.metrics.frechet import FrechetDistance
from score_sde.metrics.frechet_error import frechet_standard_error
from score_sde.metrics.held_out_bits import HeldOutBits
from score_sde.metrics.inception_score import InceptionScore, OverSplits, inception_score
from score_sde.metrics.kernel_distance import KernelDistance, kernel_distance, squared_mmd
from score_sde.metrics.kid import KID
from score_sde.metrics.memorization import Memorization, memorization
from score_sde.metrics.neighbours import Neighbourhoods, nearest, neighbourhoods, similar_pairs
from score_sde.metrics.noise_levels import NoiseLevels
from score_sde.metrics.prdc import PRDC
from score_sde.metrics.reference import Reference
from score_sde.metrics.statistics import FeatureStatistics, frechet_distance

METRICS: dict[str, Callable[[], Metric]] = {
    "fid": FrechetDistance,
    "kid": KID,
    "prdc": PRDC,
    "is": InceptionScore,
    "sfid": FrechetDistance.spatial,
    "fd_infinity": FDInfinity,
    "memorization": Memorization,
    "noise_levels": NoiseLevels,
    "bits_per_dim": HeldOutBits,
    "density": DensityKL,
}
