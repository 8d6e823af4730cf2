"""Score-based diffusion models in JAX: an SDE turns data into noise, and a denoiser reverses it step by step.

The most used names are here. All other names are in their family: `ss.solvers.DDIM`,
`ss.grids.Uniform`, `ss.sdes.Cosine`, `ss.guidance.ClassifierFree`, and so on. Names and families
are imported when they are first used. So `import score_sde` itself loads neither JAX nor anything
heavy.
"""

import importlib
import importlib.util
from typing import Any

__version__ = "0.1.0"

FAMILIES = {
    name: f"score_sde.{name}"
    for name in (
        "sdes",
        "denoising",
        "networks",
        "objectives",
        "tasks",
        "solvers",
        "guidance",
        "likelihood",
        "latents",
        "editing",
        "data",
        "metrics",
        "plots",
        "importers",
        "importing",
    )
} | {"grids": "score_sde.solvers.grids"}
MOST_USED = {
    "sdes": ("EDM", "SDE", "VE", "VP", "Flow", "SubVP"),
    "denoising": ("Denoise", "Denoiser", "Estimate", "FunctionDenoiser", "GaussianMixture"),
    "solvers": ("Samples", "sample"),
    "guidance": ("guide",),
    "likelihood": ("LogProb", "bits_per_dim"),
    "editing": ("decode", "encode", "interpolate", "sdedit"),
}
_MODULE_OF = {name: FAMILIES[family] for family, names in MOST_USED.items() for name in names}
_MODULE_OF |= {"Trainer": "score_sde.runs.trainer", "Trained": "score_sde.trained", "load": "score_sde.trained"}
_MODULE_OF["pytree"] = "score_sde.internal.pytree"  # the decorator that an SDE or a solver of one's own needs
__all__ = ["__version__", *FAMILIES, *_MODULE_OF]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in FAMILIES:
        value: Any = importlib.import_module(FAMILIES[name])
    elif name in _MODULE_OF:
        value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    elif not name.startswith("__") and importlib.util.find_spec(f"{__name__}.{name}"):
        # `from score_sde import parallel` asks here first: to look through all families would import them all, in a circle.
        value = importlib.import_module(f"{__name__}.{name}")
    else:
        value = _in_a_family(name)
    globals()[name] = value
    return value


def _in_a_family(name: str) -> Any:
    """A public name of exactly one family. Earlier versions had such names at the top level.

    Raises: AttributeError for any other name.
    """
    if name.startswith("__"):  # asked by the machinery of imports: no reason to load every family
        raise AttributeError(f"score_sde has no attribute {name!r}.")
    modules = {family: importlib.import_module(path) for family, path in FAMILIES.items() if family != "importers"}
    found = [family for family, module in modules.items() if name in vars(module)]
    if len(found) == 1:
        return getattr(modules[found[0]], name)
    if found:
        advice = f"Say which is meant: {' or '.join(f'score_sde.{family}.{name}' for family in found)}."
    else:
        advice = f"Its public names are {', '.join(__all__[1:])}; all others stand in these families."
    raise AttributeError(f"score_sde has no attribute {name!r}. {advice}")


def __dir__() -> list[str]:
    return sorted(__all__)
