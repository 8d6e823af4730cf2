"""Solvers: from noise to data, one step of a grid at a time."""

from score_sde.solvers.ancestral import Ancestral
from score_sde.solvers.base import Samples, Solver, sample
from score_sde.solvers.ddim import DDIM
from score_sde.solvers.denoise_last import DenoiseLast
from score_sde.solvers.edm import EDMHeun
from score_sde.solvers.euler_maruyama import EulerMaruyama
from score_sde.solvers.grids import EDMRho, Given, Grid, LogSNRUniform, Quadratic, Uniform
from score_sde.solvers.langevin import AnnealedLangevin, Langevin
from score_sde.solvers.predictor_corrector import PredictorCorrector
from score_sde.solvers.probability_flow import Euler, Heun, ProbabilityFlow
from score_sde.solvers.reverse_diffusion import ReverseDiffusion

SOLVERS = {
    "euler_maruyama": EulerMaruyama,
    "reverse_diffusion": ReverseDiffusion,
    "ancestral": Ancestral,
    "langevin": Langevin,
    "annealed_langevin": AnnealedLangevin,
    "predictor_corrector": PredictorCorrector,
    "ddim": DDIM,
    "euler": Euler,
    "heun": Heun,
    "edm_heun": EDMHeun,
    "probability_flow": ProbabilityFlow,
    "denoise_last": DenoiseLast,
}

GRIDS = {
    "uniform": Uniform,
    "quadratic": Quadratic,
    "log_snr_uniform": LogSNRUniform,
    "edm_rho": EDMRho,
    "given": Given,
}

__all__ = [
    "DDIM",
    "GRIDS",
    "SOLVERS",
    "Ancestral",
    "AnnealedLangevin",
    "DenoiseLast",
    "EDMHeun",
    "EDMRho",
    "Euler",
    "EulerMaruyama",
    "Given",
    "Grid",
    "Heun",
    "Langevin",
    "LogSNRUniform",
    "PredictorCorrector",
    "ProbabilityFlow",
    "Quadratic",
    "ReverseDiffusion",
    "Samples",
    "Solver",
    "Uniform",
    "sample",
]
