"""The tasks of `score-sde restore` as operators, and its methods as rules and solvers."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from score_sde.catalogues import CATALOGUES
from score_sde.config import Family, build
from score_sde.config.lookup import closest
from score_sde.config.options import options_of
from score_sde.guidance import Guidance
from score_sde.guidance import operators as ops
from score_sde.guidance.inverse import METHODS, NONLINEAR, Restoration
from score_sde.solvers import Solver
from score_sde.solvers.grids import Grid
from score_sde.tools.solver_specs import section_of

Shape = tuple[int, ...]
TASKS = ("inpaint", "colorize", "superres", "bicubic", "deblur", "denoise", "project", "jpeg", "phase")


@dataclasses.dataclass(frozen=True)
class TaskSettings:
    """The settings of the tasks' operators: `mask` of "inpaint", `factor` of "superres" and "bicubic", and so on."""

    mask: Float[np.ndarray, "h w 1"] | None = None
    factor: int = 4
    blur_std: float = 1.0
    number: int = 100
    quality: float = 10.0


def operator_of(task: str, shape: Shape, settings: TaskSettings) -> ops.Operator:
    """The operator of a task on images of `shape`.

    Raises: ValueError for an unknown task, a mask that is missing or not needed, or images that cannot be measured so.
    """
    if task not in TASKS:
        raise ValueError(f"--task needs one of {[*TASKS]}, got {task!r}.{closest(task, [*TASKS])}")
    if (task == "inpaint") != (settings.mask is not None):
        raise ValueError(
            "--mask goes with --task=inpaint, and --task=inpaint needs it: an image, white where x is seen."
        )
    operator: ops.Operator
    if settings.mask is not None:
        operator = ops.Mask(jnp.asarray(settings.mask))
    elif task == "denoise":
        operator = ops.Mask(jnp.ones((1,) * len(shape)))
    else:
        radius = max(1, round(4 * settings.blur_std))
        operator = {
            "colorize": lambda: ops.Grey(),
            "superres": lambda: ops.BlockAverage(settings.factor),
            "bicubic": lambda: ops.Bicubic(settings.factor),
            "deblur": lambda: ops.GaussianBlur(settings.blur_std, radius),
            "project": lambda: ops.RandomProjection(settings.number),
            "jpeg": lambda: ops.Jpeg(settings.quality),
            "phase": lambda: ops.PhaseRetrieval(),
        }[task]()
    operator.check(shape)
    return operator


@dataclasses.dataclass(frozen=True)
class Method:
    """A rule around the model, the solver, and the grid.

    `is_particles` says whether the draws of an image are its particles.
    """

    rule: Guidance
    solver: Solver
    grid: Grid
    is_particles: bool = False


def method_of(
    method: str | Restoration, operator: ops.Operator, noise_std: float, solver: Solver, grid: Grid
) -> Method:
    """The method for this measurement. `solver` and `grid` are for the methods that have none of their own.

    Args:
      method: a text such as "pigdm" or "dps(scale=0.5)", or the method that a config names.
    Raises: ValueError for an unknown method or field, or an operator that the method cannot use.
    """
    named = restoration_of(method) if isinstance(method, str) else method
    if not isinstance(operator, ops.Linear) and named.name not in NONLINEAR:
        raise ValueError(
            f"--method={named.name} needs a linear operator, got {type(operator).__name__}; use {', '.join(NONLINEAR)}."
        )
    measuring = named.measuring(operator, noise_std)
    return Method(measuring.rule(), *measuring.how(solver, grid), measuring.is_particles)


def restoration_of(text: str) -> Restoration:
    """The method that `text` names, as `sampling.guidance` of a config builds it.

    Raises: ValueError for an unknown method or field.
    """
    section = section_of(text, "method")
    name, known = section["name"], [*METHODS]
    if name not in known:
        raise ValueError(f"--method needs one of {known}, got {name!r}.{closest(name, known)}")
    fields = [field for field in options_of(METHODS[name]).fields if field not in ("operator", "noise_std")]
    if unknown := [field for field in section if field not in ("name", *fields)]:
        raise ValueError(f"--method={name} has the fields {fields}, got {unknown[0]!r}.{closest(unknown[0], fields)}")
    built: Restoration = build("method", Family(METHODS, Guidance), section, catalogues=CATALOGUES)
    return built
