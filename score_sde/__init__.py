"""Score-based diffusion models in JAX: an SDE turns data into noise, a denoiser undoes it one noise level at a time.

The names below are imported when first used, so that `import score_sde` itself loads neither JAX nor anything heavy.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

PUBLIC = {
    "score_sde.analytic": ("GaussianMixture",),
    "score_sde.denoiser": ("Denoiser",),
    "score_sde.dynamics": ("Denoise",),
    "score_sde.function_denoiser": ("FunctionDenoiser",),
    "score_sde.inversion": ("decode", "encode", "interpolate", "sdedit"),
    "score_sde.likelihood": ("BitsPerDim", "ExactTrace", "Hutchinson", "LogDensity", "LogProb", "bits_per_dim"),
    "score_sde.parameterizations": (
        "EDMPreconditioning",
        "Epsilon",
        "Estimate",
        "FlowVelocity",
        "ScaledScore",
        "Score",
        "Velocity",
        "X0",
    ),
    "score_sde.guidance": ("ClassifierFree", "DynamicThreshold", "Threshold", "guide"),
    "score_sde.sdes": ("EDM", "SDE", "VE", "VP", "Cosine", "Decay", "DiscreteVP", "Flow", "LogSNR", "SubVP"),
    "score_sde.solvers": (
        "DDIM",
        "DEIS",
        "DPM2",
        "IPNDM",
        "LMS",
        "PNDM",
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
        "StepScale",
        "TimestepSpacing",
        "UniPC",
        "Uniform",
        "Upward",
        "WithRestarts",
        "fit_grid",
        "sample",
        "save_grid",
    ),
}
_MODULE_OF = {name: module for module, names in PUBLIC.items() for name in names}
__all__ = ["__version__", *_MODULE_OF]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"score_sde has no attribute {name!r}; its public names are {', '.join(_MODULE_OF)}.")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
