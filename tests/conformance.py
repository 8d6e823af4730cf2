"""The lists over which the tests run. A new SDE, parameterization, solver, grid or metric is one more line here."""

import jax
import jax.numpy as jnp
import numpy as np

from score_sde import guidance, metrics, sdes, solvers
from score_sde.denoising import parameterizations as p


def _vdm(t):
    """λ(t) of a learned-schedule kind: from 10 to −10, not linear."""
    return 10.0 - 18.0 * t - 2.0 * t**3


SDES = {
    "vp": sdes.VP(),
    "vp_gentle": sdes.VP(beta_min=0.5, beta_max=12.0),
    "sub_vp": sdes.SubVP(),
    "ve": sdes.VE(sigma_min=0.01, sigma_max=50.0),
    "edm": sdes.EDM(),
    "cosine": sdes.Cosine(),
    "cosine_offset": sdes.Cosine(offset=0.008),
    "flow": sdes.Flow(),
    "log_snr": sdes.LogSNR(jax.tree_util.Partial(_vdm)),
    "ddpm": sdes.DiscreteVP.ddpm(),
    "iddpm": sdes.DiscreteVP.iddpm(),
    "decay": sdes.Decay(),
}

PARAMETERIZATIONS = {
    "eps": p.Epsilon(),
    "x0": p.X0(),
    "score": p.Score(),
    "v": p.Velocity(),
    "flow": p.FlowVelocity(),
    "edm": p.EDMPreconditioning(),
    "scaled_score": p.ScaledScore(),
    "edm_unit_data": p.EDMPreconditioning(sigma_data=1.0),
}

_corrected = solvers.PredictorCorrector(solvers.ReverseDiffusion(), solvers.AnnealedLangevin(snr=0.1))

SOLVERS = {
    "euler_maruyama": solvers.EulerMaruyama(),
    "reverse_diffusion": solvers.ReverseDiffusion(),
    "ancestral": solvers.Ancestral(),
    "ancestral_upper": solvers.Ancestral(v=1.0),
    "ddim": solvers.DDIM(),
    "ddim_half": solvers.DDIM(eta=0.5),
    "ddim_stochastic": solvers.DDIM(eta=1.0),
    "euler": solvers.Euler(),
    "heun": solvers.Heun(),
    "edm_heun": solvers.EDMHeun(),
    "edm_heun_churn": solvers.EDMHeun(S_churn=20.0, S_min=0.05, S_max=10.0),
    "edm_heun_midpoint": solvers.EDMHeun(fraction=0.5),
    "predictor_corrector": _corrected,
    "predictor_corrector_norm": solvers.PredictorCorrector(solvers.Ancestral(), solvers.Langevin(snr=0.1, num_steps=2)),
    "denoise_last": solvers.DenoiseLast(_corrected),
    "probability_flow": solvers.ProbabilityFlow(),
}

# More of the probability flow, most with a memory: the exact map of Gaussian data in test_deterministic.
DETERMINISTIC = {
    "runge_kutta": solvers.RungeKutta(),
    "dpm2": solvers.DPM2(),
    "dpm_solver": solvers.DPMSolver(),
    "dpm_solver_multistep": solvers.DPMSolverMultistep(),
    "dpm_solver_pp_2s": solvers.DPMSolverPP2S(),
    "dpm_solver_pp_3s": solvers.DPMSolverPP3S(),
    "dpm_solver_pp_2m": solvers.DPMSolverPP2M(),
    "dpm_solver_pp_3m": solvers.DPMSolverPP3M(),
    "unipc": solvers.UniPC(),
    "deis": solvers.DEIS(),
    "adams_bashforth": solvers.AdamsBashforth(predicts="flow"),
    "exponential_adams_bashforth": solvers.ExponentialAdamsBashforth(order=3, predicts="v", sigma_data=0.7),
    "lms": solvers.LMS(),
    "ipndm": solvers.IPNDM(),
    "pndm": solvers.PNDM(),
    "dpm_solver_12": solvers.DPMSolver12(),
    "dpm_solver_23": solvers.DPMSolver23(predicts="x0"),
    "dpm_solver_fast": solvers.DPMSolverFast(2),
}

# More that draw noise: right moments on Gaussian data in test_stochastic, whose batches also serve solvers with a memory.
STOCHASTIC = {
    "sde": solvers.DPMSolverPPSDE(),
    "sde_half": solvers.DPMSolverPPSDE(eta=0.5, r=0.4),
    "2m": solvers.DPMSolverPP2MSDE(),
    "2m_heun_half": solvers.DPMSolverPP2MSDE(eta=0.5, solver_type="heun"),
    "2m_more": solvers.DPMSolverPP2MSDE(eta=1.5),
    "3m": solvers.DPMSolverPP3MSDE(),
    "3m_none": solvers.DPMSolverPP3MSDE(eta=0.0),
    "sa": solvers.SASolver(),
    "sa_band": solvers.SASolver(1.3, 0.05, 5.0, predictor_order=2, corrector_order=2),
    "ancestral_heun": solvers.AncestralSteps(solvers.Heun(), 0.8),
    "ancestral_ddim": solvers.AncestralSteps(solvers.DDIM()),
    "ancestral_2m": solvers.AncestralSteps(solvers.DPMSolverPP2M(), 0.7),
    "churn": solvers.Churn(solvers.Heun(), 10.0, 0.05, 5.0),
    "step_scale": solvers.StepScale(solvers.Heun(), 1.0, 1.0, 0.3, 0.5),
    "restart": solvers.Restart(solvers.Heun()),
    "hook": solvers.Hook(solvers.DPMSolverPP2MSDE(), jax.tree_util.Partial(lambda key, x, t: x)),
    "corrected": solvers.PredictorCorrector(solvers.DPMSolverPPSDE(), solvers.AnnealedLangevin(snr=0.05)),
}

# Rules that contrast the conditional model with the model under the null condition, at scales other than 1.
CONTRASTS = {
    "classifier_free": guidance.ClassifierFree(2.5),
    "rescaled": guidance.ClassifierFree(4.0, rescale=0.7),
    "scheduled": guidance.ClassifierFree(3.0, schedule=guidance.Piecewise((-4.0, 0.0, 4.0), (0.0, 1.0, 0.3))),
    "apg": guidance.APG(4.0, eta=0.3, norm_threshold=0.5),
    "apg_momentum": guidance.APG(3.0, norm_threshold=2.5, momentum=-0.5),
    "cfg_plus_plus": guidance.CFGPlusPlus(0.6),
    "cfg_zero_star": guidance.CFGZeroStar(2.0),
    "tangential": guidance.Tangential(2.0),
    "magnitude_aware": guidance.MagnitudeAware(2.0, alpha=1.5),
    "frequency_decoupled": guidance.FrequencyDecoupled(2.0, weights=(0.8,), parallel=(0.4,)),
}


def start(sde):
    """A time to start from at which log-SNR, drift and diffusion are finite: t_max for most."""
    return sde.t_max if np.isfinite(sde.drift(jnp.asarray(sde.t_max))) else 0.99 * sde.t_max


# (sde, number of steps, to_zero) -> grid
GRIDS = {
    "uniform": lambda sde, n, to_zero=False: solvers.grids.Uniform(n, start(sde), 1e-3 * sde.t_max, to_zero),
    "quadratic": lambda sde, n, to_zero=False: solvers.grids.Quadratic(n, start(sde), 1e-3 * sde.t_max, to_zero),
    "log_snr_uniform": lambda sde, n, to_zero=False: solvers.grids.LogSNRUniform(
        n, start(sde), 1e-3 * sde.t_max, to_zero
    ),
    "edm_rho": lambda sde, n, to_zero=False: solvers.grids.EDMRho(n, start(sde), 1e-3 * sde.t_max, 7.0, to_zero),
    "given": lambda sde, n, to_zero=False: solvers.grids.Given(_cubic(sde, n, to_zero)),
}


def _cubic(sde, n, to_zero):
    u = np.linspace(0, 1, n if to_zero else n + 1)
    times = float(start(sde)) * (0.1 + 0.9 * (1 - u)) ** 3
    return np.append(times, 0.0) if to_zero else times


# Name in --metrics -> the metric, and what it gives exactly where the samples are the reference's own images.
METRICS = {
    "fid": (metrics.FrechetDistance(), {"fd": 0.0}),
    "sfid": (metrics.FrechetDistance.spatial(), {"sfd": 0.0}),
    "kid": (metrics.KID(subset_size=60), {}),
    "prdc": (metrics.PRDC(), {"precision": 1.0, "recall": 1.0, "prdc_density": 1.0, "coverage": 1.0}),
    "is": (metrics.InceptionScore(), {}),
    "fd_infinity": (metrics.FDInfinity(), {}),
    "memorization": (metrics.Memorization(), {"memorization": 1.0}),
    "noise_levels": (metrics.NoiseLevels(), {}),
    "bits_per_dim": (metrics.HeldOutBits(), {}),
    "density": (metrics.DensityKL(), {}),
}
