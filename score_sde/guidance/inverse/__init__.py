"""Methods for inverse problems y = A(x0) + σ_y n, one method per file.

`POSTERIORS` are guidance rules, for any solver. `RESTORERS` are solvers, for a denoiser under
`Measured`. `METHODS` has every method by its config name: it makes a `Restoration`, which holds the
rule and the solver.
"""

from score_sde.guidance.inverse.base import Measured, Measurement, Posterior
from score_sde.guidance.inverse.daps import DAPS
from score_sde.guidance.inverse.ddnm import DDNM
from score_sde.guidance.inverse.ddnm_plus import DDNMPlus
from score_sde.guidance.inverse.ddrm import DDRM
from score_sde.guidance.inverse.diffpir import DiffPIR
from score_sde.guidance.inverse.dps import DPS
from score_sde.guidance.inverse.jfps import JFPS
from score_sde.guidance.inverse.lgd import LGD
from score_sde.guidance.inverse.mmps import MMPS
from score_sde.guidance.inverse.pigdm import PiGDM
from score_sde.guidance.inverse.red_diff import REDDiff
from score_sde.guidance.inverse.renoise import Renoise
from score_sde.guidance.inverse.replacement import Replacement
from score_sde.guidance.inverse.restoration import METHODS, NONLINEAR, Restoration
from score_sde.guidance.inverse.restoration import RULES as POSTERIORS
from score_sde.guidance.inverse.restoration import SOLVERS as RESTORERS
from score_sde.guidance.inverse.tds import TDS
from score_sde.guidance.inverse.tmpd import TMPD

__all__ = [
    "DAPS",
    "DDNM",
    "DDRM",
    "DPS",
    "JFPS",
    "LGD",
    "METHODS",
    "MMPS",
    "NONLINEAR",
    "POSTERIORS",
    "RESTORERS",
    "TDS",
    "TMPD",
    "DDNMPlus",
    "DiffPIR",
    "Measured",
    "Measurement",
    "PiGDM",
    "Posterior",
    "REDDiff",
    "Renoise",
    "Replacement",
    "Restoration",
]
