"""Denoisers from plain functions, and the check that an argument is a denoiser with an SDE."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from jaxtyping import Array, Float

from score_sde.denoising.dynamics import Denoise, Evaluations
from score_sde.denoising.estimate import Estimate
from score_sde.internal.per_example import Weight
from score_sde.internal.pytree import as_pytree, pytree, static
from score_sde.sdes.base import SDE, Time

P = ParamSpec("P")
R = TypeVar("R")


@pytree
class FunctionDenoiser(Denoise):
    """A denoiser from any function: (x̂0, ε̂) = function(x, t) for x_t of `sde`.

    A function that is a pytree, such as `jax.tree_util.Partial(f, params)`, is an argument of the
    compiled programs. Other arrays in it need no new compilation. Any other function is a constant
    of the program.

    Args:
      function: function(x, t) -> Estimate. t is one time, or one time for each image.
      evaluations_per_call: the network evaluations of one call.
      weight: 0 where x is padding, see `Denoise`.
    Raises: ValueError unless sde is an SDE, function can be called and evaluations_per_call >= 0.
    """

    sde: SDE
    function: Callable[..., Any]
    evaluations_per_call: int = static(default=1)
    weight: Weight = None

    def __post_init__(self):
        if not (isinstance(self.sde, SDE) and callable(self.function) and self.evaluations_per_call >= 0):
            raise ValueError(
                "FunctionDenoiser(sde, function) needs an SDE, a function (x, t) -> Estimate and evaluations_per_call >= 0, "
                f"got {self.sde!r}, {self.function!r} and {self.evaluations_per_call}."
            )
        object.__setattr__(self, "function", as_pytree(self.function))

    def __call__(self, x: Float[Array, "b *shape"], t: Time) -> Estimate:
        estimate: Estimate = self.function(x, t)
        return estimate

    def evaluations(self, t: Time) -> Evaluations:
        return self.evaluations_per_call


@pytree
class _Opaque(Denoise):
    """A denoiser that is not a pytree: a constant of the program, compared by identity."""

    denoise: Denoise = static()

    @property
    def sde(self) -> SDE:
        return self.denoise.sde

    @property
    def weight(self) -> Weight:
        return self.denoise.weight

    def __call__(self, x: Float[Array, "b *shape"], t: Time) -> Estimate:
        return self.denoise(x, t)

    def evaluations(self, t: Time) -> Evaluations:
        return self.denoise.evaluations(t)


def as_denoise(denoise: Denoise) -> Denoise:
    """`denoise` as an argument of a compiled program, as `pytree.as_pytree` does for functions."""
    return denoise if as_pytree(denoise) is denoise else _Opaque(denoise)


def needs_denoiser(function: Callable[P, R]) -> Callable[P, R]:
    """Checks the argument `denoise` of `function` before anything else.

    Raises: TypeError for an SDE in its place, as in calls of score_sde 0.1. TypeError for a
      function without an SDE, and for anything else that is not a denoiser.
    """
    parameters = inspect.signature(function).parameters
    place, name = list(parameters).index("denoise"), function.__qualname__.removesuffix(".__call__")
    required = [each for each, p in parameters.items() if p.default is p.empty and each != "self"]
    form = f"{name}({', '.join(required)})"

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        denoise = kwargs["denoise"] if "denoise" in kwargs else args[place] if len(args) > place else None
        if (denoise is not None and not _is_denoiser(denoise)) or "sde" in kwargs:
            raise TypeError(_advice(form, name, kwargs.get("sde", denoise)))
        return function(*args, **kwargs)

    return checked


def _is_denoiser(denoise):
    has_all = hasattr(denoise, "evaluations") and hasattr(denoise, "weight")
    return callable(denoise) and isinstance(getattr(denoise, "sde", None), SDE) and has_all


def _advice(form, name, given):
    if isinstance(given, SDE):
        return (
            f"{form}: the denoiser says which SDE it is for, so {name} takes no SDE; got {type(given).__name__}. Leave it "
            "out, and wrap a plain function as FunctionDenoiser(sde, function)."
        )
    if callable(given):
        return (
            f"{form} needs a denoiser that says its SDE, got {given!r}. Wrap a function (x, t) -> Estimate as "
            "FunctionDenoiser(sde, function); a class of your own subclasses "
            "score_sde.Denoise and has `sde`."
        )
    return f"{form} needs a denoiser, such as Denoiser(…).bind(params), got {given!r}."
