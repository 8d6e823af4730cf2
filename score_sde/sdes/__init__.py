"""SDEs: how data turns into noise."""

from collections.abc import Callable

from score_sde.sdes.base import SDE, Gaussian
from score_sde.sdes.cosine import Cosine
from score_sde.sdes.decay import Decay
from score_sde.sdes.edm import EDM
from score_sde.sdes.flow import Flow
from score_sde.sdes.log_snr import DiscreteVP, LogSNR
from score_sde.sdes.sub_vp import SubVP
from score_sde.sdes.ve import VE
from score_sde.sdes.vp import VP

SDES: dict[str, Callable[..., SDE]] = {
    "vp": VP,
    "sub_vp": SubVP,
    "ve": VE,
    "edm": EDM,
    "cosine": Cosine,
    "flow": Flow,
    "decay": Decay,
    "log_snr": LogSNR.from_table,
    "ddpm": DiscreteVP.ddpm,
    "iddpm": DiscreteVP.iddpm,
}
