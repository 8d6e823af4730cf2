"""DINOv2's vision transformer up to its class token, in float32, for the Fréchet distance FD_DINOv2.

A token is one patch of 14×14 pixels, projected to d numbers. The first token is a learned class
token. Each block is x ← x + γ₁ attention(norm₁(x)), then x ← x + γ₂ MLP(norm₂(x)), with exact GELU.
The feature is norm(x) of the class token. The arrays have the names of the release:
"blocks.0.attn.qkv.weight" [3 d, d].

Source: Oquab et al., arXiv 2304.07193; as a metric, Stein et al., arXiv 2306.04675.
"""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8

from score_sde import parallel
from score_sde.importers import dinov2_path, load_dinov2
from score_sde.metrics.features.base import Extractor, digest_of_arrays, on_mesh

SIZE, GRID = 224, 16  # pixels and patches along a side
HEAD_WIDTH = 64  # the same in every published size
EPSILON = 1e-6
MEAN, SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and standard deviation of ImageNet, in [0, 1]
OFFSET = 0.1  # the offset of the release's position table, see `positions`
Tensors = Mapping[str, Float[Array | np.ndarray, "..."]]


def stack_blocks(tensors: Tensors, offset: float = OFFSET) -> dict[str, np.ndarray]:
    """The input of `dinov2_features` in float32.

    "blocks.i.NAME" of every i become one array "blocks.NAME". The positions are those at 224×224.

    Args:
      offset: as in `positions`.
    """
    parameters = {name: np.asarray(value, np.float32) for name, value in tensors.items() if _in_block(name) is None}
    parameters["pos_embed"] = positions(parameters["pos_embed"], offset)
    depth = 1 + max(index for index, _ in filter(None, map(_in_block, tensors)))
    for name in dict.fromkeys(name for _, name in filter(None, map(_in_block, tensors))):
        layers = [np.asarray(tensors[f"blocks.{i}.{name}"], np.float32) for i in range(depth)]
        parameters[f"blocks.{name}"] = np.stack(layers)
    return parameters


def dinov2_features(
    parameters: Tensors, images_u8: UInt8[Array | np.ndarray, "b h w c"], head_width: int = HEAD_WIDTH
) -> Float[Array, "b d"]:
    """The class token after the last norm, for 8-bit images of any size, with one channel (repeated to three) or three.

    Raises: ValueError for another number of channels, or a d that is not a multiple of
      `head_width`.
    """
    channels, width = images_u8.shape[-1], parameters["cls_token"].shape[-1]
    if channels not in (1, 3):
        raise ValueError(f"dinov2_features needs images with 1 or 3 channels, got {channels}.")
    if width % head_width:
        raise ValueError(f"dinov2_features needs a width that is a multiple of {head_width=}, got {width}.")
    with jax.default_matmul_precision("float32"):  # an accelerator's default would round to bf16 or TF32
        x = resize(jnp.asarray(images_u8)) / 255
        mean, sd = (np.array(value, np.float32)[None, None, None] for value in (MEAN, SD))
        x = (jnp.broadcast_to(x, (*x.shape[:-1], 3)) - mean) / sd
        return _network({name: jnp.asarray(value) for name, value in parameters.items()}, x, head_width)


def resize(images: UInt8[Array, "b h w c"]) -> Float[Array, "b 224 224 c"]:
    """Bicubic resize to 224×224 with antialiasing, in 0…255, neither rounded nor clamped.

    This is the default of arXiv 2312.02696's code. The code of arXiv 2306.04675 resizes by PIL,
    which rounds to 8 bits.
    """
    shape = (len(images), SIZE, SIZE, images.shape[-1])
    return jax.image.resize(jnp.asarray(images, jnp.float32), shape, "cubic", antialias=True)


def positions(table: Float[np.ndarray, "1 n d"], offset: float = OFFSET) -> Float[np.ndarray, "1 257 d"]:
    """The position embeddings at 16×16 patches, from a table of one for the class token and m×m for the patches.

    The interpolation is bicubic (Keys' kernel with a = −¾, the border repeated), without
    antialiasing. Output i is at (i + ½) m/(16 + offset) − ½. The release adds an offset of 0.1. So
    do the distances published with its code, as in arXiv 2306.04675 and 2312.02696.
    transformers' Dinov2Model has no offset, so its features differ a little with the same weights.
    """
    side = math.isqrt(table.shape[1] - 1)
    if side == GRID:
        return table
    position = (np.arange(GRID) + 0.5) * side / (GRID + offset) - 0.5
    low, weight = np.floor(position).astype(int), np.zeros((GRID, side))
    for neighbour in (low - 1, low, low + 1, low + 2):
        np.add.at(weight, (np.arange(GRID), neighbour.clip(0, side - 1)), keys(position - neighbour, -0.75))
    patches = table[0, 1:].astype(np.float64).reshape(side, side, -1)
    patches = np.einsum("ih,hwd,jw->ijd", weight, patches, weight, optimize=True).reshape(1, GRID**2, -1)
    return np.concatenate([table[:, :1], patches.astype(np.float32)], axis=1)


def keys(x: Float[np.ndarray, "*shape"], a: float) -> Float[np.ndarray, "*shape"]:
    """Keys' cubic convolution kernel: 1 at 0, 0 at the other integers and beyond ±2, with slope a at 1."""
    x = np.abs(x)
    inner, outer = ((a + 2) * x - (a + 3)) * x**2 + 1, a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, inner, np.where(x < 2, outer, 0))


def feed_forward(p: Tensors, x: Float[Array, "*tokens d"]) -> Float[Array, "*tokens d"]:
    """W₂ GELU(W₁ x + b₁) + b₂. In the giant model it is SwiGLU: W₃ (silu(u) ⊙ v) + b₃ with [u, v] = W₁₂ x + b₁₂."""
    if "mlp.w12.weight" in p:
        gate, value = jnp.split(_linear(p, "mlp.w12", x), 2, axis=-1)
        return _linear(p, "mlp.w3", jax.nn.silu(gate) * value)
    return _linear(p, "mlp.fc2", jax.nn.gelu(_linear(p, "mlp.fc1", x), approximate=False))


def _in_block(name: str) -> tuple[int, str] | None:
    """(i, NAME) of "blocks.i.NAME"."""
    blocks, _, rest = name.partition(".")
    index, _, inner = rest.partition(".")
    return (int(index), inner) if blocks == "blocks" else None


def _linear(p: Tensors, name: str, x: Array) -> Array:
    return jnp.matmul(x, p[f"{name}.weight"].T) + _along(p[f"{name}.bias"], x)


def _norm(p: Tensors, name: str, x: Array) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    y = centred / jnp.sqrt(jnp.square(centred).mean(axis=-1, keepdims=True) + EPSILON)
    return y * _along(p[f"{name}.weight"], x) + _along(p[f"{name}.bias"], x)


def _along(vector: Array | np.ndarray, x: Array) -> Array:
    """A vector that multiplies or shifts the last axis of x."""
    return jnp.reshape(vector, (1,) * (x.ndim - 1) + vector.shape)


def _network(p: Tensors, x: Float[Array, "b 224 224 3"], head_width: int) -> Float[Array, "b d"]:
    def block(x, p):
        b, tokens, width = x.shape
        joint = _linear(p, "attn.qkv", _norm(p, "norm1", x))
        query, key, value = jnp.moveaxis(joint.reshape(b, tokens, 3, width // head_width, head_width), 2, 0)
        attended = jax.nn.dot_product_attention(query, key, value).reshape(b, tokens, width)
        x = x + _along(p["ls1.gamma"], x) * _linear(p, "attn.proj", attended)
        return x + _along(p["ls2.gamma"], x) * feed_forward(p, _norm(p, "norm2", x)), None

    patches = x.reshape(len(x), GRID, SIZE // GRID, GRID, SIZE // GRID, 3)
    patches = jnp.einsum("bihjwc,dchw->bijd", patches, p["patch_embed.proj.weight"])
    patches = (patches + _along(p["patch_embed.proj.bias"], patches)).reshape(len(x), GRID**2, -1)
    first = jnp.broadcast_to(p["cls_token"], (len(x), 1, patches.shape[-1]))
    x = jnp.concatenate([first, patches], axis=1) + p["pos_embed"]
    blocks = {name.removeprefix("blocks."): value for name, value in p.items() if name.startswith("blocks.")}
    x, _ = jax.lax.scan(block, x, blocks)
    return _norm(p, "norm", x[:, 0])


def extractor(mesh: Mesh) -> Extractor:
    """The class token of DINOv2 in float32, with the batch sharded over the devices of the mesh."""
    tensors = load_dinov2(dinov2_path())
    parameters = parallel.replicate(stack_blocks(tensors), mesh)
    features = jax.jit(dinov2_features)
    digest = digest_of_arrays("bicubic 224 antialias, ImageNet mean and sd, position offset 0.1, float32", tensors)
    compute = on_mesh(mesh, lambda images, wanted: {"pool": features(parameters, images)})
    return Extractor("dinov2", digest, ("pool",), compute, of_8_bits=True)
