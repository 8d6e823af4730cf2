"""The InceptionV3 of 2015-12-05 up to its last pooling, as the FID papers use it, in float32.

A cell is relu(γ⁻¹-free batch norm(convolution)). The norm is folded into the kernel: W/√(v + 1e-3)
and β − m/√(v + 1e-3). The arrays have the names of the graph: "mixed_4.tower.conv_1". Two details are
part of the published numbers. Average pooling leaves the padding out of its mean. The last of the
eleven mixed layers takes a maximum where the others take a mean.

Source: Szegedy et al., arXiv 1512.00567; the frozen graph of Heusel et al., arXiv 1706.08500.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8

from score_sde import parallel
from score_sde.importers import inception_path, load_inception
from score_sde.metrics.features.base import Extractor, digest_of_arrays, on_mesh

SIZE = 299
EPSILON = 1e-3
Cells = Mapping[str, tuple[Float[Array | np.ndarray, "_ _ _ _"], Float[Array | np.ndarray, " _"]]]  # kernel, bias
Activations = Float[Array, "_ _ _ _"]  # [b, h, w, c], of other sizes after a layer


class InceptionFeatures(NamedTuple):
    """The features of a batch.

    Attributes:
      pool: 2048 features (pool_3), for FID.
      spatial: 7 channels of mixed_6/conv at 17×17, for sFID.
    """

    pool: Float[Array, "b 2048"]
    spatial: Float[Array, "b 2023"]


def fold(tensors: Mapping[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(kernel [h, w, in, out], bias) of every cell, with the batch norm in them."""
    cells = {}
    for name in tensors:
        cell, _, leaf = name.rpartition(".")
        if leaf != "mean":
            continue
        weight, beta, mean, var = (np.asarray(tensors[f"{cell}.{part}"], np.float64) for part in PARTS)
        gain = 1 / np.sqrt(var + EPSILON)
        kernel = (weight * gain[:, None, None, None]).transpose(2, 3, 1, 0)
        cells[cell] = kernel.astype(np.float32), (beta - mean * gain).astype(np.float32)
    return cells


PARTS = ("weight", "beta", "mean", "var")


def inception_features(cells: Cells, images_u8: UInt8[Array | np.ndarray, "b h w c"]) -> InceptionFeatures:
    """The features of 8-bit images of any size, with one channel (repeated to three) or three.

    Raises: ValueError for another number of channels.
    """
    channels = images_u8.shape[-1]
    if channels not in (1, 3):
        raise ValueError(f"inception_features needs images with 1 or 3 channels, got {channels}.")
    with jax.default_matmul_precision("float32"):  # an accelerator's default would round to bf16 or TF32
        x = resize(jnp.broadcast_to(images_u8, (*images_u8.shape[:-1], 3)))
        return _network(cells, (x - 128) / 128)


def resize(images: UInt8[Array, "b h w c"]) -> Float[Array, "b 299 299 c"]:
    """Bilinear resize to 299×299 as in TensorFlow 1: output pixel i is at i · size/299, without antialiasing."""
    x = jnp.asarray(images, jnp.float32)
    rows, columns = (jnp.asarray(interpolation(size)) for size in x.shape[1:3])
    return jnp.einsum("ih,bhwc,jw->bijc", rows, x, columns)


@functools.cache
def interpolation(size: int) -> Float[np.ndarray, "299 size"]:
    """The matrix of one axis of `resize`."""
    position = np.arange(SIZE) * (np.float32(size) / np.float32(SIZE))  # float32, as there
    low = np.floor(position).astype(int)
    weight = np.zeros((SIZE, size), np.float64)
    np.add.at(weight, (np.arange(SIZE), low), 1 - (position - low))
    np.add.at(weight, (np.arange(SIZE), np.minimum(low + 1, size - 1)), position - low)
    return weight.astype(np.float32)


def _cell(cells: Cells, name: str, x: Activations, stride: int = 1, padding: str = "SAME") -> Activations:
    kernel, bias = map(jnp.asarray, cells[name])
    y = lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jax.nn.relu(y + bias[None, None, None])


def _pool(x: Activations, operation: Any, start: float, stride: int, padding: str) -> Activations:
    return lax.reduce_window(x, np.float32(start), operation, (1, 3, 3, 1), (1, stride, stride, 1), padding)


def _maximum(x: Activations, stride: int = 2, padding: str = "VALID") -> Activations:
    return _pool(x, lax.max, -np.inf, stride, padding)


def _mean(x: Activations) -> Activations:
    """The mean over 3×3 of the pixels inside of the image."""
    return _pool(x, lax.add, 0.0, 1, "SAME") / _pool(jnp.ones_like(x[:1, ..., :1]), lax.add, 0.0, 1, "SAME")


def _network(cells: Cells, x: Activations) -> InceptionFeatures:
    def chain(x, *names):
        for name in names:
            x = _cell(cells, name, x)
        return x

    x = _cell(cells, "conv", x, 2, "VALID")
    x = _cell(cells, "conv_1", x, 1, "VALID")
    x = _maximum(_cell(cells, "conv_2", x))
    x = _cell(cells, "conv_3", x, 1, "VALID")
    x = _maximum(_cell(cells, "conv_4", x, 1, "VALID"))
    for name in ("mixed", "mixed_1", "mixed_2"):
        x = _side_by_side(
            chain(x, f"{name}.conv"),
            chain(x, f"{name}.tower.conv", f"{name}.tower.conv_1"),
            chain(x, *(f"{name}.tower_1.conv{i}" for i in ("", "_1", "_2"))),
            chain(_mean(x), f"{name}.tower_2.conv"),
        )
    tower = chain(x, "mixed_3.tower.conv", "mixed_3.tower.conv_1")
    tower = _cell(cells, "mixed_3.tower.conv_2", tower, 2, "VALID")
    x = _side_by_side(_cell(cells, "mixed_3.conv", x, 2, "VALID"), tower, _maximum(x))
    firsts = {}
    for name in ("mixed_4", "mixed_5", "mixed_6", "mixed_7"):
        firsts[name] = chain(x, f"{name}.conv")
        x = _side_by_side(
            firsts[name],
            chain(x, *(f"{name}.tower.conv{i}" for i in ("", "_1", "_2"))),
            chain(x, *(f"{name}.tower_1.conv{i}" for i in ("", "_1", "_2", "_3", "_4"))),
            chain(_mean(x), f"{name}.tower_2.conv"),
        )
    tower = _cell(cells, "mixed_8.tower.conv_1", chain(x, "mixed_8.tower.conv"), 2, "VALID")
    other = chain(x, *(f"mixed_8.tower_1.conv{i}" for i in ("", "_1", "_2")))
    x = _side_by_side(tower, _cell(cells, "mixed_8.tower_1.conv_3", other, 2, "VALID"), _maximum(x))
    for name, pooled in (("mixed_9", _mean), ("mixed_10", functools.partial(_maximum, stride=1, padding="SAME"))):
        tower = chain(x, f"{name}.tower_conv")
        other = chain(x, f"{name}.tower_1_conv", f"{name}.tower_1_conv_1")
        x = _side_by_side(
            chain(x, f"{name}.conv"),
            chain(tower, f"{name}.tower_mixed_conv"),
            chain(tower, f"{name}.tower_mixed_conv_1"),
            chain(other, f"{name}.tower_1_mixed_conv"),
            chain(other, f"{name}.tower_1_mixed_conv_1"),
            chain(pooled(x), f"{name}.tower_2_conv"),
        )
    return InceptionFeatures(x.mean(axis=(1, 2)), firsts["mixed_6"][..., :7].reshape(len(x), -1))


def _side_by_side(*branches: Activations) -> Activations:
    return jnp.concatenate(branches, axis=-1)


def extractor(mesh: Mesh) -> Extractor:
    """The InceptionV3 of 2015-12-05 in float32, with the batch sharded over the devices of the mesh."""
    tensors = load_inception(inception_path())
    cells = parallel.replicate(fold(tensors), mesh)
    # The published score has no bias in this layer. Source: the code of arXiv 1606.03498.
    weight = tensors.get("logits.weight")
    logits = None if weight is None else parallel.replicate(np.ascontiguousarray(weight.T), mesh)

    @functools.partial(jax.jit, static_argnames="wanted")
    def compute(cells, logits, images, wanted):
        features = inception_features(cells, images)._asdict()
        if "logits" in wanted:
            with jax.default_matmul_precision("float32"):
                features["logits"] = jnp.matmul(features["pool"], logits)
        return {name: features[name] for name in wanted}

    outputs = ("pool", "spatial") if logits is None else ("pool", "spatial", "logits")
    trunk = {name: value for name, value in tensors.items() if not name.startswith("logits.")}
    digest = digest_of_arrays("bilinear TF1, (x - 128) / 128, float32", trunk)
    sharded = on_mesh(mesh, functools.partial(compute, cells, logits))
    return Extractor("inception", digest, outputs, sharded, of_8_bits=True)
