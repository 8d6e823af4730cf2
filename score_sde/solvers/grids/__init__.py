"""Grids: the times at which a solver stops, from noise to data. GRIDS maps a config name to its class."""

from score_sde.solvers.grids.base import Grid
from score_sde.solvers.grids.fitted import Fitted, save_grid
from score_sde.solvers.grids.jumps import Jumps
from score_sde.solvers.grids.shaped import (
    AlignYourSteps,
    ArctanUniform,
    BetaSpaced,
    PolyExponential,
    Shifted,
    Sigmoid,
    Upward,
)
from score_sde.solvers.grids.standard import EDMRho, Given, LogSNRUniform, Quadratic, Uniform
from score_sde.solvers.grids.timesteps import TimestepSpacing
from score_sde.solvers.grids.with_restarts import WithRestarts

GRIDS = {
    "uniform": Uniform,
    "quadratic": Quadratic,
    "log_snr_uniform": LogSNRUniform,
    "edm_rho": EDMRho,
    "given": Given,
    "shifted": Shifted,
    "sigmoid": Sigmoid,
    "arctan_uniform": ArctanUniform,
    "align_your_steps": AlignYourSteps,
    "poly_exponential": PolyExponential,
    "beta": BetaSpaced,
    "timesteps": TimestepSpacing,
    "fitted": Fitted,
    "with_restarts": WithRestarts,
    "jumps": Jumps,
    "upward": Upward,
}
