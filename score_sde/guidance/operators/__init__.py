"""Operators of inverse problems: the measurement of an image. `OPERATORS` maps a config name to the operator."""

from score_sde.guidance.operators.base import Decomposed, Linear, Operator, conjugate_gradients, measured_values
from score_sde.guidance.operators.bicubic import Bicubic
from score_sde.guidance.operators.block_average import BlockAverage
from score_sde.guidance.operators.circular_blur import CircularBlur
from score_sde.guidance.operators.function import Function, LinearFunction
from score_sde.guidance.operators.gaussian_blur import GaussianBlur
from score_sde.guidance.operators.grey import Grey
from score_sde.guidance.operators.jpeg import Jpeg
from score_sde.guidance.operators.mask import Mask
from score_sde.guidance.operators.matrix import Matrix
from score_sde.guidance.operators.phase_retrieval import PhaseRetrieval
from score_sde.guidance.operators.random_projection import RandomProjection

OPERATORS: dict[str, type[Operator]] = {
    "mask": Mask,
    "grey": Grey,
    "block_average": BlockAverage,
    "bicubic": Bicubic,
    "gaussian_blur": GaussianBlur,
    "circular_blur": CircularBlur,
    "random_projection": RandomProjection,
    "matrix": Matrix,
    "linear_function": LinearFunction,
    "function": Function,
    "phase_retrieval": PhaseRetrieval,
    "jpeg": Jpeg,
}

__all__ = [
    "OPERATORS",
    "Bicubic",
    "BlockAverage",
    "CircularBlur",
    "Decomposed",
    "Function",
    "GaussianBlur",
    "Grey",
    "Jpeg",
    "Linear",
    "LinearFunction",
    "Mask",
    "Matrix",
    "Operator",
    "PhaseRetrieval",
    "RandomProjection",
    "conjugate_gradients",
    "measured_values",
]
