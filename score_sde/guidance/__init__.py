"""Guidance: rules that change the output of a denoiser, one method per file.

`GUIDANCE` maps a config name to its rule. `THRESHOLDS` has the short names of thresholding for
`sampling.threshold`.
"""

from score_sde.guidance.apg import APG
from score_sde.guidance.autoguidance import Autoguidance
from score_sde.guidance.base import Conditional, EstimateRule, Guidance, Observation, guide
from score_sde.guidance.cfg_plus_plus import CFGPlusPlus
from score_sde.guidance.cfg_zero_star import CFGZeroStar
from score_sde.guidance.classifier_free import ClassifierFree
from score_sde.guidance.classifier_guidance import ClassifierGuidance
from score_sde.guidance.contrast import Contrast
from score_sde.guidance.dynamic_threshold import DynamicThreshold
from score_sde.guidance.energies import ENERGIES, Energy, MeanColor, Quadratic
from score_sde.guidance.energy_guidance import EnergyGuidance
from score_sde.guidance.frequency_decoupled import FrequencyDecoupled
from score_sde.guidance.layer_contrast import LayerContrast
from score_sde.guidance.magnitude_aware import MagnitudeAware
from score_sde.guidance.object_energies import (
    OBJECT_ENERGIES,
    Appearance,
    ObjectEnergy,
    Position,
    Shape,
    Size,
    Together,
)
from score_sde.guidance.perturbed_attention import PerturbedAttention
from score_sde.guidance.product import Product, compose
from score_sde.guidance.schedules import SCHEDULES, Piecewise, Schedule
from score_sde.guidance.self_guidance import Reference, SelfGuidance
from score_sde.guidance.skip_layer import SkipLayer
from score_sde.guidance.tangential import Tangential
from score_sde.guidance.threshold import Threshold

GUIDANCE: dict[str, type[Guidance]] = {
    "classifier_free": ClassifierFree,
    "apg": APG,
    "cfg_plus_plus": CFGPlusPlus,
    "cfg_zero_star": CFGZeroStar,
    "tangential": Tangential,
    "frequency_decoupled": FrequencyDecoupled,
    "magnitude_aware": MagnitudeAware,
    "autoguidance": Autoguidance,
    "perturbed_attention": PerturbedAttention,
    "skip_layer": SkipLayer,
    "classifier": ClassifierGuidance,
    "energy": EnergyGuidance,
    "self_guidance": SelfGuidance,
    "product": Product,
    "threshold": Threshold,
    "dynamic_threshold": DynamicThreshold,
}
THRESHOLDS: dict[str, type[Guidance]] = {"static": Threshold, "dynamic": DynamicThreshold}
