"""Solvers: from noise to data, one step of a grid at a time."""

from score_sde.solvers.adams import LMS, AdamsBashforth, ExponentialAdamsBashforth
from score_sde.solvers.adaptive_dpm import DPMSolver12, DPMSolver23
from score_sde.solvers.added_noise import AncestralSteps
from score_sde.solvers.ancestral import Ancestral
from score_sde.solvers.base import Solver
from score_sde.solvers.churn import Churn, StepScale
from score_sde.solvers.ddim import DDIM
from score_sde.solvers.deis import DEIS
from score_sde.solvers.denoise_last import DenoiseLast
from score_sde.solvers.dpm2 import DPM2
from score_sde.solvers.dpm_solver import DPMSolver, DPMSolverPP2S, DPMSolverPP3S
from score_sde.solvers.dpm_solver_fast import DPMSolverFast
from score_sde.solvers.dpm_solver_multistep import DPMSolverMultistep, DPMSolverPP2M, DPMSolverPP3M
from score_sde.solvers.dpm_solver_sde import DPMSolverPP2MSDE, DPMSolverPP3MSDE, DPMSolverPPSDE
from score_sde.solvers.edm import EDMHeun
from score_sde.solvers.euler_maruyama import EulerMaruyama
from score_sde.solvers.fitted_grid import Fitted, fit_grid, save_grid
from score_sde.solvers.grids import EDMRho, Given, Grid, LogSNRUniform, Quadratic, Uniform
from score_sde.solvers.hook import Hook, RandomRigidMotion, recentre
from score_sde.solvers.langevin import AnnealedLangevin, Langevin
from score_sde.solvers.loop import Samples, sample
from score_sde.solvers.pndm import IPNDM, PNDM
from score_sde.solvers.predictor_corrector import PredictorCorrector
from score_sde.solvers.probability_flow import Euler, Heun, ProbabilityFlow
from score_sde.solvers.restart import Restart, WithRestarts
from score_sde.solvers.reverse_diffusion import ReverseDiffusion
from score_sde.solvers.runge_kutta import RungeKutta
from score_sde.solvers.sa_solver import SASolver
from score_sde.solvers.shaped_grids import (
    AlignYourSteps,
    ArctanUniform,
    BetaSpaced,
    PolyExponential,
    Shifted,
    Sigmoid,
    Upward,
)
from score_sde.solvers.timesteps import TimestepSpacing
from score_sde.solvers.unipc import UniPC

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
    "runge_kutta": RungeKutta,
    "dpm2": DPM2,
    "dpm_solver": DPMSolver,
    "dpm_solver_fast": DPMSolverFast,
    "dpm_solver_multistep": DPMSolverMultistep,
    "dpm_solver_pp_2s": DPMSolverPP2S,
    "dpm_solver_pp_3s": DPMSolverPP3S,
    "dpm_solver_pp_2m": DPMSolverPP2M,
    "dpm_solver_pp_3m": DPMSolverPP3M,
    "unipc": UniPC,
    "deis": DEIS,
    "adams_bashforth": AdamsBashforth,
    "exponential_adams_bashforth": ExponentialAdamsBashforth,
    "lms": LMS,
    "ipndm": IPNDM,
    "pndm": PNDM,
    "dpm_solver_12": DPMSolver12,
    "dpm_solver_23": DPMSolver23,
    "ancestral_steps": AncestralSteps,
    "dpm_solver_pp_sde": DPMSolverPPSDE,
    "dpm_solver_pp_2m_sde": DPMSolverPP2MSDE,
    "dpm_solver_pp_3m_sde": DPMSolverPP3MSDE,
    "sa_solver": SASolver,
    "churn": Churn,
    "step_scale": StepScale,
    "restart": Restart,
    "hook": Hook,
}

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
    "upward": Upward,
}

__all__ = [
    "DDIM",
    "DEIS",
    "DPM2",
    "GRIDS",
    "IPNDM",
    "LMS",
    "PNDM",
    "SOLVERS",
    "AdamsBashforth",
    "AlignYourSteps",
    "Ancestral",
    "AncestralSteps",
    "AnnealedLangevin",
    "ArctanUniform",
    "BetaSpaced",
    "Churn",
    "DPMSolver",
    "DPMSolver12",
    "DPMSolver23",
    "DPMSolverFast",
    "DPMSolverMultistep",
    "DPMSolverPP2M",
    "DPMSolverPP2MSDE",
    "DPMSolverPP2S",
    "DPMSolverPP3M",
    "DPMSolverPP3MSDE",
    "DPMSolverPP3S",
    "DPMSolverPPSDE",
    "DenoiseLast",
    "EDMHeun",
    "EDMRho",
    "Euler",
    "EulerMaruyama",
    "ExponentialAdamsBashforth",
    "Fitted",
    "Given",
    "Grid",
    "Heun",
    "Hook",
    "Langevin",
    "LogSNRUniform",
    "PolyExponential",
    "PredictorCorrector",
    "ProbabilityFlow",
    "Quadratic",
    "RandomRigidMotion",
    "Restart",
    "ReverseDiffusion",
    "RungeKutta",
    "SASolver",
    "Samples",
    "Shifted",
    "Sigmoid",
    "Solver",
    "StepScale",
    "TimestepSpacing",
    "UniPC",
    "Uniform",
    "Upward",
    "WithRestarts",
    "fit_grid",
    "recentre",
    "sample",
    "save_grid",
]
