"""Denoising: from a network's output to the pair (x̂0, ε̂), and denoisers in closed form.

PARAMETERIZATIONS and NOISE_LABELS map a config name to its class.
"""

from score_sde.denoising.classifier import Classifier
from score_sde.denoising.denoiser import Denoiser
from score_sde.denoising.dynamics import Denoise
from score_sde.denoising.estimate import Estimate
from score_sde.denoising.function_denoiser import FunctionDenoiser
from score_sde.denoising.gaussian_mixture import GaussianMixture
from score_sde.denoising.parameterizations import (
    NOISE_LABELS,
    PARAMETERIZATIONS,
    X0,
    EDMPreconditioning,
    Epsilon,
    FlowVelocity,
    LogSigmaLabel,
    NoiseLabel,
    Parameterization,
    ScaledScore,
    Score,
    TimeLabel,
    Velocity,
)
