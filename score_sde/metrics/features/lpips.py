"""LPIPS: the distance between images in the activations of VGG16, weighted to agree with human judgement.

φ_l(x) [h_l, w_l, c_l] are the activations of the last ReLU before each pooling of VGG16. With φ̂ =
φ/(|φ|₂ + 1e-10) over the channels, and learned weights w_l ≥ 0,

    d(a, b) = Σ_l mean over places of Σ_c w_l (φ̂_l(a) − φ̂_l(b))².

The arrays have the names of the two files: torchvision's "features.0.weight" [64, 3, 3, 3], and "lin0" …
"lin4" [c_l].

Source: Zhang et al., arXiv 1801.03924, version 0.1 of its code, which is the version that scales
  its input.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8

from score_sde import parallel
from score_sde.importers import load_lpips, lpips_path
from score_sde.metrics.features.base import Extractor, digest_of_arrays, on_mesh

BLOCKS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))  # torchvision's numbers of the convolutions
LEAST_SIZE = 2 ** (len(BLOCKS) - 1)  # the smallest side in pixels; a smaller image leaves no pixels for the last block
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # the normalization of images in [−1, 1]
EPSILON = 1e-10
Tensors = Mapping[str, Float[Array | np.ndarray, "..."]]
Images = Float[Array | np.ndarray, "b h w c"]


def lpips_distance(tensors: Tensors, a: Images, b: Float[Array | np.ndarray, "..."]) -> Float[Array, " b"]:
    """d(a, b) of each pair of images in [−1, 1], with one channel (repeated to three) or three. Differentiable.

    Raises: ValueError for arrays of different shapes, another number of channels, or images below 16×16.
    """
    if a.shape != b.shape:
        raise ValueError(f"lpips_distance needs pairs of images of one shape, got {a.shape} and {b.shape}.")
    distance = jnp.zeros(len(a))
    for index, (of_a, of_b) in enumerate(zip(_activations(tensors, a), _activations(tensors, b), strict=True)):
        weighted = jnp.square(of_a - of_b) * _weights(tensors, index)
        distance += weighted.sum(axis=-1).mean(axis=(1, 2))
    return distance


def lpips_features(tensors: Tensors, images_u8: UInt8[Array | np.ndarray, "b h w c"]) -> Float[Array, "b 1472"]:
    """√w_l φ̂_l of 8-bit images, averaged over places, for l after l: the features of Fréchet and kernel distances.

    Without the average, squared distances between these features would be LPIPS itself.

    Raises: ValueError for a number of channels that is neither 1 nor 3, or images below 16×16.
    """
    layers = enumerate(_activations(tensors, jnp.asarray(images_u8, jnp.float32) / 127.5 - 1))
    return jnp.concatenate([(x * jnp.sqrt(_weights(tensors, i))).mean(axis=(1, 2)) for i, x in layers], axis=-1)


def _weights(tensors: Tensors, index: int) -> Float[Array, "1 1 1 c"]:
    return jnp.asarray(tensors[f"lin{index}"]).reshape(1, 1, 1, -1)


def _activations(tensors: Tensors, images: Images) -> list[Float[Array, "b _ _ _"]]:
    """φ̂ of each block."""
    _, height, width, channels = images.shape
    if channels not in (1, 3):
        raise ValueError(f"LPIPS needs images with 1 or 3 channels, got {channels}.")
    if min(height, width) < LEAST_SIZE:
        raise ValueError(
            f"LPIPS needs images of at least {LEAST_SIZE}×{LEAST_SIZE}, got {height}×{width}; enlarge them."
        )
    shift, scale = (np.reshape(np.array(value, np.float32), (1, 1, 1, 3)) for value in (SHIFT, SCALE))
    x, layers = (jnp.broadcast_to(images, (*images.shape[:-1], 3)) - shift) / scale, []
    for number, block in enumerate(BLOCKS):
        if number:
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        for convolution in block:
            x = jax.nn.relu(_convolution(tensors, f"features.{convolution}", x))
        layers.append(x / (_norm(x) + EPSILON))
    return layers


def _norm(x: Float[Array, "b h w c"]) -> Float[Array, "b h w 1"]:
    square = jnp.square(x).sum(axis=-1, keepdims=True)
    is_positive = square > 0  # where every channel is off, the root has no derivative
    return jnp.where(is_positive, jnp.sqrt(jnp.where(is_positive, square, 1.0)), 0.0)


def _convolution(tensors: Tensors, name: str, x: Float[Array, "b h w c"]) -> Float[Array, "b h w o"]:
    # In full float32: an accelerator's default would round to bf16 or TF32.
    kernel, bias = jnp.asarray(tensors[f"{name}.weight"]), jnp.reshape(tensors[f"{name}.bias"], (1, 1, 1, -1))
    layout = ("NHWC", "OIHW", "NHWC")
    y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout, precision="float32")
    return y + bias


def extractor(mesh: Mesh) -> Extractor:
    """LPIPS's activations, averaged over places, in float32, with the batch sharded over the devices of the mesh."""
    tensors = load_lpips(lpips_path())
    parameters, features = parallel.replicate(tensors, mesh), jax.jit(lpips_features)
    digest = digest_of_arrays("sqrt(w) phi / (|phi| + 1e-10), mean over places, float32", tensors)
    compute = on_mesh(mesh, lambda images, wanted: {"pool": features(parameters, images)})
    return Extractor("lpips", digest, ("pool",), compute, of_8_bits=True)
