"""Any function as an operator."""

from collections.abc import Callable
from typing import Any

from score_sde.guidance.operators.base import Images, Linear, Measured, Operator
from score_sde.internal.pytree import as_pytree, pytree


class Called(Operator):
    """y = function(x).

    A function that is a pytree is traced. Any other function is a constant of the program.
    """

    function: Callable[..., Any]

    def __post_init__(self):
        object.__setattr__(self, "function", as_pytree(self.function))

    def __call__(self, x: Images) -> Measured:
        y: Measured = self.function(x)
        return y


@pytree
class Function(Called):
    """y = function(x), for any differentiable function of a batch [b, *shape] that treats the images independently.

    A function that is a pytree is traced. Any other function is a constant of the program.
    """

    function: Callable[..., Any]


@pytree
class LinearFunction(Called, Linear):
    """A linear function as an operator. Its adjoint is JAX's transpose."""

    function: Callable[..., Any]
