"""Solvers: from noise to data, one step of a grid at a time."""

from score_sde.solvers.adaptive_ode import Adaptive
from score_sde.solvers.around.added_noise import AncestralSteps
from score_sde.solvers.around.churn import Churn, StepScale
from score_sde.solvers.around.denoise_last import DenoiseLast
from score_sde.solvers.around.hook import Hook, RandomRigidMotion, recentre
from score_sde.solvers.around.predictor_corrector import PredictorCorrector
from score_sde.solvers.around.restart import Restart
from score_sde.solvers.base import Solver
from score_sde.solvers.fit_grid import fit_grid
from score_sde.solvers.loop import Samples, sample
from score_sde.solvers.ode.adams import LMS, AdamsBashforth, ExponentialAdamsBashforth
from score_sde.solvers.ode.ddim import DDIM
from score_sde.solvers.ode.deis import DEIS
from score_sde.solvers.ode.dpm2 import DPM2
from score_sde.solvers.ode.dpm_solver import DPMSolver, DPMSolverPP2S, DPMSolverPP3S
from score_sde.solvers.ode.dpm_solver_adaptive import DPMSolver12, DPMSolver23
from score_sde.solvers.ode.dpm_solver_fast import DPMSolverFast
from score_sde.solvers.ode.dpm_solver_multistep import DPMSolverMultistep, DPMSolverPP2M, DPMSolverPP3M
from score_sde.solvers.ode.pndm import IPNDM, PNDM
from score_sde.solvers.ode.probability_flow import Euler, Heun, ProbabilityFlow
from score_sde.solvers.ode.runge_kutta import RungeKutta
from score_sde.solvers.ode.unipc import UniPC
from score_sde.solvers.sde.ancestral import Ancestral
from score_sde.solvers.sde.dpm_solver_sde import DPMSolverPP2MSDE, DPMSolverPP3MSDE, DPMSolverPPSDE
from score_sde.solvers.sde.edm_heun import EDMHeun
from score_sde.solvers.sde.euler_maruyama import EulerMaruyama
from score_sde.solvers.sde.feynman_kac import FeynmanKac
from score_sde.solvers.sde.langevin import AnnealedLangevin, Langevin
from score_sde.solvers.sde.reverse_diffusion import ReverseDiffusion
from score_sde.solvers.sde.sa_solver import SASolver

SOLVERS = {
    "euler_maruyama": EulerMaruyama,
    "reverse_diffusion": ReverseDiffusion,
    "ancestral": Ancestral,
    "feynman_kac": FeynmanKac,
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
