"""The tasks of `score-sde restore` as operators, and its methods as rules and solvers."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from score_sde.catalogues import CATALOGUES
from score_sde.config import Family, build
from score_sde.config.lookup import closest
from score_sde.guidance import Guidance
from score_sde.guidance import operators as ops
from score_sde.guidance.inverse import DDNM, POSTERIORS, RESTORERS, TDS, DiffPIR, Measured, Renoise, Replacement
from score_sde.solvers import Restart, Solver
from score_sde.solvers.grids import Grid, Jumps
from score_sde.solvers.grids.base import Spaced
from score_sde.tools.solver_specs import section_of

Shape = tuple[int, ...]
TASKS = ("inpaint", "colorize", "superres", "bicubic", "deblur", "denoise", "project", "jpeg", "phase")
_POSTERIORS = {name: kind for name, kind in POSTERIORS.items() if kind is not Measured}
_RESTORERS = {name: kind for name, kind in RESTORERS.items() if kind is not Renoise}
ANY_OPERATOR = ("dps", "daps", "red_diff", "tds")  # methods for nonlinear operators too
METHODS = (*_POSTERIORS, *_RESTORERS, "repaint")


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


def method_of(text: str, operator: ops.Operator, noise_std: float, solver: Solver, grid: Grid) -> Method:
    """The method that `text` names, such as "pigdm" or "dps(scale=0.5)". The run gives `solver` and `grid`.

    Raises: ValueError for an unknown method or field, or an operator that the method cannot use.
    """
    section = section_of(text)
    name = section.pop("name")
    if name not in METHODS:
        raise ValueError(f"--method needs one of {[*METHODS]}, got {name!r}.{closest(name, [*METHODS])}")
    if not isinstance(operator, ops.Linear) and name not in ANY_OPERATOR:
        raise ValueError(
            f"--method={name} needs a linear operator, got {type(operator).__name__}; use {', '.join(ANY_OPERATOR)}."
        )
    if name in _POSTERIORS:
        kind: Any = _POSTERIORS[name]
        _check_fields(name, section, [f.name for f in dataclasses.fields(kind)][2:])
        rule, own = kind(operator, noise_std, **section), {DDNM: Renoise(), DiffPIR: Renoise(0.3**0.5)}
        return Method(rule, own[kind], to_zero(grid)) if kind in own else Method(rule, solver, grid)
    rule, grid = Measured(operator, noise_std), to_zero(grid)
    if name == "repaint":
        _check_fields(name, section, ["length", "repeats"])
        return Method(rule, Restart(Replacement()), Jumps(grid, **section))
    family = Family(_RESTORERS, Solver)
    built: Solver = build("method", family, {"name": name, **section}, catalogues=CATALOGUES)
    return Method(rule, built, grid, _RESTORERS[name] is TDS)


def to_zero(grid: Grid) -> Grid:
    """The grid with a last step to σ = 0, if it can have one. In that step, these solvers put y itself into the result."""
    can = isinstance(grid, Spaced) and grid.end > 0 and grid.num_steps > 1
    return dataclasses.replace(grid, to_zero=True) if can else grid  # type: ignore[type-var]


def _check_fields(name: str, given: dict[str, Any], known: list[str]) -> None:
    unknown = [field for field in given if field not in known]
    if unknown:
        raise ValueError(f"--method={name} has the fields {known}, got {unknown[0]!r}.{closest(unknown[0], known)}")
