"""The cost of a network from shapes alone: the number of parameters, and the multiply-adds of one evaluation.

Nothing is allocated or compiled. Multiply-adds are the products of matrices and convolutions, as
papers count them. A convolution counts all taps, also beyond the border.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal


class Cost(NamedTuple):
    """The cost of a network.

    Attributes:
      parameters: the number of parameters.
      multiply_adds: the multiply-adds of one evaluation of one example.
      of_attention: the multiply-adds of the products of two arrays that both depend on the input, which are
        part of multiply_adds.
    """

    parameters: int
    multiply_adds: int
    of_attention: int


def cost_of(network: nn.Module, shape: tuple[int, ...], condition: Mapping[str, tuple[tuple[int, ...], Any]]) -> Cost:
    """The cost of one evaluation.

    Args:
      network: the network.
      shape: the shape of one example.
      condition: name -> (shape of one example, type).
    """
    x, label = jax.ShapeDtypeStruct((1, *shape), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.float32)
    given = {name: jax.ShapeDtypeStruct((1, *sizes), dtype) for name, (sizes, dtype) in condition.items()} or None
    # The plain product of attention can be counted, and XLA's own convolutions too.
    network = network.clone(attention="plain") if hasattr(network, "attention") else network
    with jax.default_matmul_precision("highest"):
        params = jax.eval_shape(network.init, jax.random.key(0), x, label, given)["params"]
        traced = jax.make_jaxpr(lambda params, *inputs: network.apply({"params": params}, *inputs))(
            params, x, label, given
        )
    leaves = jax.tree.leaves(params)
    moving = [False] * len(leaves) + [True] * (len(traced.jaxpr.invars) - len(leaves))
    total, attention, _ = _count(traced.jaxpr, moving)
    return Cost(sum(math.prod(leaf.shape) for leaf in leaves), total, attention)


def _count(jaxpr: Jaxpr, moving: list[bool]) -> tuple[int, int, list[bool]]:
    """(multiply-adds, those between two arrays that depend on the input, which outputs depend on the input).

    `moving` tells which arguments depend on the input.
    """
    depends = dict(zip(jaxpr.invars, moving, strict=True))
    total = attention = 0
    for equation in jaxpr.eqns:
        inputs = [not isinstance(v, Literal) and depends.get(v, False) for v in equation.invars]
        outputs = [any(inputs)] * len(equation.outvars)
        inner = [sub for value in equation.params.values() for sub in _jaxprs(value)]
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            number = _multiply_adds(equation)
            total += number
            attention += number if all(inputs) else 0
        elif len(inner) == 1 and len(inner[0].invars) == len(inputs):
            repeats = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
            more, of_attention, found = _count(inner[0], inputs)
            total, attention = total + repeats * more, attention + repeats * of_attention
            outputs = found if len(found) == len(outputs) else outputs
        elif inner:
            raise NotImplementedError(
                f"The cost of {equation.primitive.name} is not known; count the network without it."
            )
        depends |= dict(zip(equation.outvars, outputs, strict=True))
    return total, attention, [not isinstance(v, Literal) and depends.get(v, False) for v in jaxpr.outvars]


def _jaxprs(value: Any) -> list[Jaxpr]:
    if isinstance(value, ClosedJaxpr):
        return [value.jaxpr]
    return [value] if isinstance(value, Jaxpr) else []


def _multiply_adds(equation: Any) -> int:
    left, right = (v.aval.shape for v in equation.invars[:2])
    result = math.prod(equation.outvars[0].aval.shape)
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return result * math.prod(left[axis] for axis in contracted)
    kernel = equation.params["dimension_numbers"].rhs_spec
    return result * math.prod(right[axis] for axis in kernel[1:])  # kernel[0] is the axis of the outputs
