"""Objectives: what training minimizes."""

from score_sde.objectives.base import Objective
from score_sde.objectives.cross_entropy import CrossEntropy
from score_sde.objectives.denoising import DenoisingScoreMatching
from score_sde.objectives.sliced import SlicedScoreMatching
from score_sde.objectives.time_samplers import (
    TIME_SAMPLERS,
    Discrete,
    LikelihoodImportance,
    LogitNormal,
    LogNormal,
    Stratified,
    TimeSampler,
    Uniform,
)
from score_sde.objectives.weightings import (
    WEIGHTINGS,
    EDMWeighting,
    FlowMatching,
    Likelihood,
    MinSNR,
    SigmaSquared,
    Sigmoid,
    VelocityMatching,
    Weighting,
)

OBJECTIVES = {"denoising": DenoisingScoreMatching, "sliced": SlicedScoreMatching, "cross_entropy": CrossEntropy}
