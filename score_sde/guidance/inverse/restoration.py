"""Methods for inverse problems by their names: what `sampling.guidance` of a config and `score-sde restore` build.

Some methods are guidance rules, and some are solvers. A `Restoration` is either, together with its operator.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Shaped

from score_sde.denoising.dynamics import Denoise
from score_sde.guidance.base import Guidance, Observation
from score_sde.guidance.inverse.base import Measured, NoiseStd
from score_sde.guidance.inverse.daps import DAPS
from score_sde.guidance.inverse.ddnm import DDNM
from score_sde.guidance.inverse.ddnm_plus import DDNMPlus
from score_sde.guidance.inverse.ddrm import DDRM
from score_sde.guidance.inverse.diffpir import DiffPIR
from score_sde.guidance.inverse.dps import DPS
from score_sde.guidance.inverse.jfps import JFPS
from score_sde.guidance.inverse.lgd import LGD
from score_sde.guidance.inverse.mmps import MMPS
from score_sde.guidance.inverse.pigdm import PiGDM
from score_sde.guidance.inverse.red_diff import REDDiff
from score_sde.guidance.inverse.renoise import Renoise
from score_sde.guidance.inverse.replacement import Replacement
from score_sde.guidance.inverse.tds import TDS
from score_sde.guidance.inverse.tmpd import TMPD
from score_sde.guidance.operators import Linear, Mask, Operator
from score_sde.solvers import Restart
from score_sde.solvers.base import Solver
from score_sde.solvers.grids import Grid, Jumps
from score_sde.solvers.grids.base import Spaced


@dataclasses.dataclass(frozen=True)
class RePaint:
    """`Restart(Replacement())` on the grid `Jumps`: the steps of a replacement, each part of them made several times.

    Args:
      length: the number of steps of a jump.
      repeats: how often each part of the grid is made.
    Source: Lugmayr et al., arXiv 2201.09865.
    """

    length: int = 10
    repeats: int = 10


RULES: dict[str, type[Guidance]] = {
    "pigdm": PiGDM,
    "mmps": MMPS,
    "tmpd": TMPD,
    "ddnm": DDNM,
    "diffpir": DiffPIR,
    "jfps": JFPS,
}
SOLVERS: dict[str, type[Solver]] = {
    "dps": DPS,
    "lgd": LGD,
    "replacement": Replacement,
    "ddrm": DDRM,
    "ddnm_plus": DDNMPlus,
    "daps": DAPS,
    "red_diff": REDDiff,
    "tds": TDS,
}
KINDS: dict[str, Any] = {**RULES, **SOLVERS, "repaint": RePaint}
NONLINEAR = ("dps", "lgd", "daps", "red_diff", "tds")  # the methods for nonlinear operators too
OWN_SOLVERS = {"ddnm": Renoise(), "diffpir": Renoise(0.3**0.5)}  # the steps of the papers of these rules


@dataclasses.dataclass(frozen=True)
class Restoration(Guidance):
    """A method for inverse problems. It must be the last rule of a list.

    Attributes:
      name: the name of the method.
      fields: the fields of the method that are not defaults.
      operator: A. None: `measuring` gives it.
      noise_std: σ_y. None: 0 for "ddnm", else 0.05.

    Raises: ValueError for a field that the method does not allow, and for a nonlinear operator where the method needs a
      linear one.
    """

    name: str
    fields: Mapping[str, Any]
    operator: Operator | None = None
    noise_std: NoiseStd | None = None

    def __post_init__(self):
        if self.name in SOLVERS or self.name == "repaint":
            KINDS[self.name](**self.fields)
            _ = Measured(_anything(), self._noise_std)
        else:
            self._made_rule(_anything())
        needs_linear = self.name not in NONLINEAR and not self.fields.get("first_order")
        if self.operator is not None and needs_linear and not isinstance(self.operator, Linear):
            raise ValueError(
                f"{self.name} needs a linear operator, got {type(self.operator).__name__}; use {', '.join(NONLINEAR)}."
            )

    @property
    def _noise_std(self) -> NoiseStd:
        return (0.0 if self.name == "ddnm" else 0.05) if self.noise_std is None else self.noise_std

    @property
    def is_particles(self) -> bool:
        """Whether the draws of an image are its particles."""
        return self.name == "tds"

    def measuring(self, operator: Operator, noise_std: NoiseStd) -> "Restoration":
        """The same method for this measurement."""
        return dataclasses.replace(self, operator=operator, noise_std=noise_std)

    def rule(self) -> Guidance:
        """The rule around the model.

        Raises: ValueError without an operator.
        """
        if self.name in RULES:
            return self._made_rule(self._operator())
        return Measured(self._operator(), self._noise_std)

    def _made_rule(self, operator: Operator) -> Guidance:
        kind: Any = RULES[self.name]
        rule: Guidance = kind(operator, self._noise_std, **self.fields)
        return rule

    def _operator(self) -> Operator:
        if self.operator is None:
            raise ValueError(
                f"{self.name} needs an operator, as in {{'name': {self.name!r}, 'operator': {{'name': 'block_average', "
                "'factor': 4}, 'noise_std': 0.05}; or use score-sde restore, whose flags give it."
            )
        return self.operator

    def check_alone(self) -> None:
        """Checks the method for sampling without `score-sde restore`.

        Raises: ValueError without an operator, and for particles.
        """
        self.rule()
        if self.is_particles:
            raise ValueError(f"{self.name} draws all images of one measurement together; use score-sde restore for it.")

    def measured(
        self, key: Key[Array, ""], x: Float[Array, "b *shape"], index: Shaped[Array, " b"]
    ) -> Float[Array, "b *m"]:
        """A(x) + σ_y n for each image, whose noise n is drawn for its index."""
        operator = self._operator()
        y = operator(x)
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
        n = jax.vmap(lambda k: jax.random.normal(k, y.shape[1:], y.dtype))(keys)
        noisy = y + jnp.asarray(self._noise_std, y.dtype) * n
        return operator(noisy) if isinstance(operator, Mask) else noisy  # a mask measures nothing elsewhere

    def how(self, solver: Solver, grid: Grid) -> tuple[Solver, Grid]:
        """The solver and the grid of the method. A rule takes the given ones, if its paper has no solver of its own."""
        if self.name in RULES and self.name not in OWN_SOLVERS:
            return solver, grid
        grid = to_zero(grid)
        if self.name == "repaint":
            return Restart(Replacement()), Jumps(grid, **self.fields)
        own = OWN_SOLVERS[self.name] if self.name in RULES else SOLVERS[self.name](**self.fields)
        return own, grid

    def wrap(self, model: Denoise, observation: Observation) -> Denoise:
        return self.rule().wrap(model, observation)


def to_zero(grid: Grid) -> Grid:
    """The grid with a last step to σ = 0, if it can have one. In that step, these solvers put y itself into the result."""
    can = isinstance(grid, Spaced) and grid.end > 0 and grid.num_steps > 1
    return dataclasses.replace(grid, to_zero=True) if can else grid  # type: ignore[type-var]


FIELDS = """

Attributes:
  operator: A, the operator of the measurement, by a section with its name. None: `score-sde restore`
    gives it.
  noise_std: σ_y, the standard deviation of the noise of the measurement. None: 0.05, and 0 for
    "ddnm".
"""


def named(name: str) -> Callable[..., Restoration]:
    """The function that makes a `Restoration` of this name from the fields of its section."""
    kind = KINDS[name]

    def make(operator: Operator | None = None, noise_std: float | None = None, **fields: Any) -> Restoration:
        return Restoration(name, fields, operator, noise_std)

    own = [p for p in inspect.signature(kind).parameters.values() if p.name not in ("operator", "noise_std")]
    common = [p for p in inspect.signature(make).parameters.values() if p.name != "fields"]
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in [*own, *common]]
    made: Any = make
    made.__signature__ = inspect.Signature(parameters, return_annotation=Restoration)
    made.__doc__ = inspect.cleandoc(kind.__doc__ or "") + FIELDS
    made.__name__ = kind.__name__
    return make


METHODS: dict[str, Callable[..., Restoration]] = {name: named(name) for name in KINDS}


def _anything() -> Mask:
    """An operator to try a method's fields with. As a constant of the module it would start JAX at import."""
    return Mask(jnp.ones((1, 1, 1)))
