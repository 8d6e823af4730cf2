"""Networks of other people in tests/golden/net: their outputs and gradients, and ours with their weights."""

import functools
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from score_sde.importing import convert, edm, score_sde, shapes_of

FOLDER = pathlib.Path(__file__).parent.parent / "golden" / "net"
NHWC = (0, 2, 3, 1)


@functools.cache
def load(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(arrays, meta) of a pack."""
    with np.load(FOLDER / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    return arrays, json.loads(str(arrays.pop("__meta__")))


def part(arrays: Mapping[str, Any], prefix: str, dtype: Any) -> dict[str, Any]:
    """The arrays below a prefix, such as the weights "sd/", without the prefix."""
    return {key.removeprefix(prefix): jnp.asarray(v, dtype) for key, v in arrays.items() if key.startswith(prefix)}


def float32(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The arrays below a prefix, in float32."""
    return part(arrays, prefix, jnp.float32)


def nhwc(x: Any) -> Any:
    """Images of a pack of PyTorch with the channels last."""
    return np.transpose(x, NHWC)


@functools.cache
def shapes(net: Any, height: int, channels: int = 3) -> dict[str, tuple[int, ...]]:
    """The shapes of a network's parameters, for images of this height."""
    condition = {"label": jnp.zeros(1, jnp.int32)} if getattr(net, "num_classes", 0) else {}
    condition |= {"embedding": jnp.zeros((1, net.embedding_dim))} if net.embedding_dim else {}
    x = jnp.zeros((1, height, height, channels))
    return shapes_of(jax.eval_shape(net.init, jax.random.key(0), x, jnp.zeros(1), condition)["params"])


def imported(table: Sequence[Any], weights: Mapping[str, Any], net: Any, height: int) -> Any:
    """Our parameters for the published weights. Each weight is used, and each shape checked."""
    weights = {name.removeprefix("module."): value for name, value in weights.items()}
    return convert(table, weights, shapes(net, height), unused=(*edm.UNUSED, *score_sde.UNUSED_TORCH))


class Result(NamedTuple):
    """An output, d sum(output · probe)/dx, and the same gradient in the published weights."""

    output: Any
    x_grad: Any
    weight_grads: dict[str, Any]


def evaluate(
    net: Any,
    table: Sequence[Any],
    weights: Mapping[str, Any],
    inputs: Sequence[Any],
    probe: Any,
    *,
    unused: Sequence[str] = (),
    finish: Callable[[Any], Any] = lambda output: output,
) -> Result:
    """The network `net` with published weights, at inputs (x, noise label, condition), in the dtype of the arrays."""
    needed = shapes_of(jax.eval_shape(net.init, jax.random.key(0), *inputs)["params"])

    def scalar(weights, x):
        params = convert(table, weights, needed, unused=unused)
        output = finish(net.apply({"params": params}, x, *inputs[1:]))
        return jnp.sum(output * probe), output

    arrays = jax.tree.map(jnp.asarray, (dict(weights), inputs[0]))
    (weight_grads, x_grad), output = jax.jit(jax.grad(scalar, argnums=(0, 1), has_aux=True))(*arrays)
    return Result(output, x_grad, weight_grads)


def norms(grads: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The norm of each gradient."""
    return np.array([np.linalg.norm(np.asarray(grads[name], np.float64)) for name in names])
