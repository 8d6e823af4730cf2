"""Guidance: rules that change what a denoiser says, one method a file.

`GUIDANCE` maps a config's name to the rule; `THRESHOLDS` has the short names of thresholding that `sampling.threshold` takes.
"""

from score_sde.guidance.apg import APG
from score_sde.guidance.base import Conditional, EstimateRule, Guidance, Observation, guide
from score_sde.guidance.cfg_plus_plus import CFGPlusPlus
from score_sde.guidance.cfg_zero_star import CFGZeroStar
from score_sde.guidance.classifier_free import ClassifierFree
from score_sde.guidance.contrast import Contrast
from score_sde.guidance.dynamic_threshold import DynamicThreshold
from score_sde.guidance.schedules import SCHEDULES, Piecewise, Schedule
from score_sde.guidance.threshold import Threshold

GUIDANCE: dict[str, type[Guidance]] = {
    "classifier_free": ClassifierFree,
    "apg": APG,
    "cfg_plus_plus": CFGPlusPlus,
    "cfg_zero_star": CFGZeroStar,
    "threshold": Threshold,
    "dynamic_threshold": DynamicThreshold,
}
THRESHOLDS: dict[str, type[Guidance]] = {"static": Threshold, "dynamic": DynamicThreshold}
