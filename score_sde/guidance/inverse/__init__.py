"""Methods for inverse problems y = A(x0) + σ_y n, one method per file.

`POSTERIORS` are guidance rules, for any solver. `RESTORERS` are solvers, for a denoiser under
`Measured`. Both map a config name to the method.
"""

from score_sde.guidance.base import Guidance
from score_sde.guidance.inverse.base import Measured, Measurement, Posterior
from score_sde.guidance.inverse.daps import DAPS
from score_sde.guidance.inverse.ddnm import DDNM
from score_sde.guidance.inverse.ddnm_plus import DDNMPlus
from score_sde.guidance.inverse.ddrm import DDRM
from score_sde.guidance.inverse.diffpir import DiffPIR
from score_sde.guidance.inverse.dps import DPS
from score_sde.guidance.inverse.mmps import MMPS
from score_sde.guidance.inverse.pigdm import PiGDM
from score_sde.guidance.inverse.red_diff import REDDiff
from score_sde.guidance.inverse.renoise import Renoise
from score_sde.guidance.inverse.replacement import Replacement
from score_sde.guidance.inverse.tds import TDS
from score_sde.guidance.inverse.tmpd import TMPD
from score_sde.solvers.base import Solver

POSTERIORS: dict[str, type[Guidance]] = {
    "pigdm": PiGDM,
    "mmps": MMPS,
    "tmpd": TMPD,
    "ddnm": DDNM,
    "diffpir": DiffPIR,
    "measured": Measured,
}
RESTORERS: dict[str, type[Solver]] = {
    "dps": DPS,
    "replacement": Replacement,
    "ddrm": DDRM,
    "ddnm_plus": DDNMPlus,
    "renoise": Renoise,
    "tds": TDS,
    "daps": DAPS,
    "red_diff": REDDiff,
}

__all__ = [
    "DAPS",
    "DDNM",
    "DDRM",
    "DPS",
    "MMPS",
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
]
