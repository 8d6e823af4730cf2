"""3×3 convolutions that are fast on a CPU, also inside of loops. On other devices nothing changes.

    y[h, 4n + j] = Σ_k Aᵀ[j, k] Σ_i (G w)[i, k] · (Bᵀ x)[h + i, n, k],  j = 0 … 3, k = 0 … 5, i = −1, 0, 1

This is Winograd's F(4, 3) along the width. It makes six products for four outputs of a row of three
taps, instead of twelve. So it halves the arithmetic of every layer, in the forward pass and in both
gradients. The kernel is not transformed along the height. That would halve the products again, but
cost more than this in memory traffic. The transforms are sums of slices of x, seen as [b, h, w/4,
4c], which copies nothing. Layers that are too small to gain take the direct sum.

XLA has fast CPU kernels for some forms of convolution. It rewrites the gradients of a convolution
into these forms, but only outside of loops. Accumulated gradients, likelihoods and guidance run
inside of loops, and there the gradients were 40 times slower. So this module writes the gradients
in the fast form itself.

Error: with the points 0, ±3/4, ±3/2, ∞ the root-mean-square rounding error of y is three times that
  of the direct sum (6e-7 against 2e-7 of y's standard deviation at 64 channels).
Source: Lavin and Gray, arXiv 1509.09308. The points are as in Barabasz et al., arXiv 1803.10986,
  and were chosen by that error.
"""

import functools
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

POINTS = (Fraction(0), Fraction(3, 4), Fraction(-3, 4), Fraction(3, 2), Fraction(-3, 2))
TILE, TAPS = 4, 3  # outputs and kernel taps of F(4, 3); a tile sees TILE + TAPS − 1 = 6 inputs
LEAST_WIDTH, LEAST_CHANNELS = 8, 64  # below these, the transforms cost more than they save
LEAST_CHANNELS_OF_GRADIENT = 32  # the limit is lower for the kernel's gradient, where the direct sum is slower
FEW_CHANNELS = 16  # up to this many against LEAST_CHANNELS or more, the kernel's gradient is one matrix product
OFFSETS = (-1, 0, 1)  # the offsets of the inputs that a tap sees
OVER_PIXELS = (((0,), (0,)), ((), ()))  # dimension numbers of aᵀ b
LAYOUT = ("NHWC", "HWIO", "NHWC")

Images = Float[Array, "b h w c"]
Outputs = Float[Array, "b h w o"]
Kernel = Float[Array, "3 3 c o"]


def conv_general_dilated(
    x: Array,
    kernel: Array,
    window_strides: Sequence[int],
    padding: Any,
    *,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
) -> Array:
    """`jax.lax.conv_general_dilated`, by Winograd's F(4, 3) on CPUs where it is faster and equal in exact arithmetic.

    Winograd's algorithm applies to float32 and 3×3 kernels that keep the size, without stride or
    dilation. The width must be 8, 12, 16 …, with 64 channels or more on both sides (32 in the
    kernel's gradient). The choice depends on the layer, never on the batch size, so an image does
    not depend on the batch size. With `jax.default_matmul_precision("highest")` the direct sum is
    always used.
    """
    plain = {*window_strides, *(lhs_dilation or (1,)), *(rhs_dilation or (1,)), feature_group_count} == {1}
    same = padding == "SAME" or tuple(map(tuple, padding)) == ((1, 1), (1, 1))
    if plain and same and precision is None and _is_ours(x, kernel):
        return _conv.bind(x, kernel)
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides,
        padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        precision=precision,
    )


def _is_ours(x: Array, kernel: Array) -> bool:
    return (
        x.ndim == 4
        and kernel.shape[:2] == (TAPS, TAPS)
        and x.dtype == kernel.dtype
        and jax.config.jax_default_matmul_precision in (None, "default", "fastest")
    )


def _suits(x: Array, y: Array, least_channels: int) -> bool:
    """Whether Winograd's algorithm is the faster way from x to y.

    y may also be the kernel; only its channels matter.
    """
    return (
        x.dtype == jnp.float32
        and min(x.shape[-1], y.shape[-1]) >= least_channels
        and x.shape[2] % TILE == 0
        and x.shape[2] >= LEAST_WIDTH
    )


@functools.cache
def transforms() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(Aᵀ [4, 6], G [6, 3], Bᵀ [6, 6]) of F(4, 3) at POINTS and ∞.

    Let m_k(u) = Π_{l≠k} (u − p_l) and m(u) = Π_l (u − p_l). Row k of Bᵀ holds the coefficients of
    m_k, and the last row holds the coefficients of m. G[k, i] = p_k^i / m_k(p_k), and Aᵀ[j, k] =
    p_k^j.
    """

    def from_roots(roots: Sequence[Fraction]) -> list[Fraction]:
        coefficients = [Fraction(1)]
        for root in roots:
            shifted, scaled = [Fraction(0), *coefficients], [-root * c for c in coefficients] + [Fraction(0)]
            coefficients = [a + b for a, b in zip(shifted, scaled, strict=True)]
        return coefficients

    others = [from_roots([q for q in POINTS if q != p]) for p in POINTS]
    scale = [sum(c * p**i for i, c in enumerate(poly)) for p, poly in zip(POINTS, others, strict=True)]
    output = [[*(p**j for p in POINTS), Fraction(j == TILE - 1)] for j in range(TILE)]
    weight = [[p**i / n for i in range(TAPS)] for p, n in zip(POINTS, scale, strict=True)] + [[0] * (TAPS - 1) + [1]]
    data = [*([*poly, Fraction(0)] for poly in others), from_roots(POINTS)]
    output_t, weight_t, data_t = (np.array([[float(v) for v in row] for row in m]) for m in (output, weight, data))
    return output_t, weight_t, data_t


def _terms(coefficients: np.ndarray, parts: Sequence[Array]) -> Array:
    """Σ_k coefficients[k] parts[k], without the terms whose coefficient is 0."""
    return functools.reduce(jnp.add, [part * np.float32(c) for c, part in zip(coefficients, parts, strict=True) if c])


def _stacked(matrix: np.ndarray, parts: Sequence[Array], axis: int) -> Array:
    """Σ_k matrix[i, k] parts[k], with i along a new axis.

    This is one loop in the compiled program; a sum for each i would be many loops. Both run equally
    fast, but XLA compiles fewer loops faster.
    """
    shape = [1] * (parts[0].ndim + 1)
    shape[axis] = len(matrix)
    columns = jnp.asarray(matrix.T, jnp.float32).reshape(-1, *shape)
    return functools.reduce(
        jnp.add, [jnp.expand_dims(part, axis) * column for part, column in zip(parts, columns, strict=True)]
    )


def _columns(x: Images) -> list[Array]:
    """The four columns of every tile, each [b, h, w/4, c].

    The barrier keeps XLA from fusing the computation of x into each of the sums below. Otherwise x
    would be computed six times.
    """
    batch, height, width, channels = x.shape
    x = lax.optimization_barrier(x)
    tiles = x.reshape(batch, height, width // TILE, TILE * channels)
    return jnp.split(tiles, TILE, axis=-1)


def _seen(x: Images) -> list[Array]:
    """The six columns that every tile sees: its own four and one on either side, with zeros beyond the border."""
    columns = _columns(x)
    left = jnp.pad(columns[-1][:, :, :-1], ((0, 0), (0, 0), (1, 0), (0, 0)))
    right = jnp.pad(columns[0][:, :, 1:], ((0, 0), (0, 0), (0, 1), (0, 0)))
    return [left, *columns, right]


def _direct(x: Images, kernel: Kernel) -> Outputs:
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=LAYOUT)


def _direct_kernel_gradient(x: Images, dy: Outputs) -> Kernel:
    zeros = jnp.zeros((TAPS, TAPS, x.shape[-1], dy.shape[-1]), x.dtype)
    return jax.vjp(functools.partial(_direct, x), zeros)[1](dy)[0]


def _conv_on_cpu(x: Images, kernel: Kernel) -> Outputs:
    return (_winograd if _suits(x, kernel, LEAST_CHANNELS) else _direct)(x, kernel)


def _kernel_gradient_on_cpu(x: Images, dy: Outputs) -> Kernel:
    if _suits(x, dy, LEAST_CHANNELS_OF_GRADIENT):
        return _winograd_kernel_gradient(x, dy)
    few, many = sorted((x.shape[-1], dy.shape[-1]))
    if few <= FEW_CHANNELS and many >= LEAST_CHANNELS:
        return _product_kernel_gradient(x, dy)
    # The convolution of x by dy, summed over the images, with the channels of x in their place.
    images, kernel, padding = x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3), ((1, 1), (1, 1))
    return lax.conv_general_dilated(images, kernel, (1, 1), padding, dimension_numbers=LAYOUT).transpose(1, 2, 0, 3)


def _winograd(x: Images, kernel: Kernel) -> Outputs:
    output, weight, data = transforms()
    seen, rows = _seen(x), jnp.split(kernel, TAPS, axis=1)
    along = _product_along_height if x.shape[2] == LEAST_WIDTH else _conv_along_height
    products = [along(_terms(data[k], seen), _terms(weight[k], rows)) for k in range(len(data))]
    return _stacked(output, products, 3).reshape(*x.shape[:-1], kernel.shape[-1])


def _conv_along_height(x: Images, kernel: Float[Array, "3 1 c o"]) -> Outputs:
    return lax.conv_general_dilated(x, kernel, (1, 1), ((1, 1), (0, 0)), dimension_numbers=LAYOUT)


def _product_along_height(x: Images, kernel: Float[Array, "3 1 c o"]) -> Outputs:
    """The product over the three rows of the kernel, as one matrix product.

    It is 1.3 times as fast for rows of two tiles, and slower for longer rows.
    """
    product = jnp.matmul(_moved(x, [(i, 0) for i in OFFSETS]), kernel.reshape(-1, kernel.shape[-1]))
    return product.reshape(*x.shape[:-1], kernel.shape[-1])


def _winograd_kernel_gradient(x: Images, dy: Outputs) -> Kernel:
    """The gradient for the kernel: Gᵀ of the products of Bᵀ x and A dy.

    For each k there is one matrix product over all tiles. For the three rows of the kernel, dy is
    moved up and down, and the copies lie side by side. XLA's own gradient of a 3×1 kernel is half
    as fast. With one k after another, the operands of a product stay in the cache.
    """
    output, weight, data = transforms()
    channels, features = x.shape[-1], dy.shape[-1]
    seen, columns, products = _seen(x), _columns(dy), []
    for k in range(len(data)):
        u = _terms(data[k], seen).reshape(-1, channels)
        moved = _moved(_terms(output.T[k], columns), [(-i, 0) for i in OFFSETS])
        product = lax.dot_general(u, moved, OVER_PIXELS)
        products.append(product.reshape(channels, TAPS, features).swapaxes(0, 1))
    return _stacked(weight.T, products, 1)


def _product_kernel_gradient(x: Images, dy: Outputs) -> Kernel:
    """The gradient for the kernel as one matrix product over all pixels.

    One operand is the side with more channels. The other operand is nine moved copies of the other
    side.
    """
    channels, features = x.shape[-1], dy.shape[-1]
    offsets = [(i, j) for i in OFFSETS for j in OFFSETS]
    if channels <= features:
        product = lax.dot_general(_moved(x, offsets), dy.reshape(-1, features), OVER_PIXELS)
        return product.reshape(TAPS, TAPS, channels, features)
    moved = _moved(dy, [(-i, -j) for i, j in offsets])
    product = lax.dot_general(x.reshape(-1, channels), moved, OVER_PIXELS)
    return product.reshape(channels, TAPS, TAPS, features).transpose(1, 2, 0, 3)


def _moved(x: Images, offsets: Sequence[tuple[int, int]]) -> Float[Array, "pixels _"]:
    """x[h + i, w + j] for each offset (i, j), with 0 outside of the image, side by side: one row for each pixel."""
    rows, columns = np.abs(offsets).max(axis=0).tolist()
    padded = jnp.pad(x, ((0, 0), (rows, rows), (columns, columns), (0, 0)))
    (height, width), channels = x.shape[1:3], x.shape[-1]
    moved = [padded[:, rows + i :, columns + j :][:, :height, :width] for i, j in offsets]
    return jnp.concatenate(moved, axis=-1).reshape(-1, len(offsets) * channels)


def _adjoint(kernel: Kernel) -> Float[Array, "3 3 o c"]:
    """The kernel whose convolution is the transpose of the convolution, with respect to x."""
    return jnp.flip(kernel, (0, 1)).swapaxes(2, 3)


# Two bilinear primitives, each the transpose of the other. So derivatives of any order and mode
# consist of these two primitives again.
_conv = Primitive("conv3x3")
_kernel_gradient = Primitive("conv3x3_kernel_gradient")

ad.defbilinear(
    _conv,
    lambda dy, x, kernel: _conv.bind(dy, _adjoint(kernel)),
    lambda dy, x, kernel: _kernel_gradient.bind(x, dy),
)
ad.defbilinear(
    _kernel_gradient,
    lambda dk, x, dy: _conv.bind(dy, _adjoint(dk)),
    lambda dk, x, dy: _conv.bind(x, dk),
)


@_conv.def_abstract_eval
def _(x, kernel):
    return ShapedArray((*x.shape[:-1], kernel.shape[-1]), x.dtype)


@_kernel_gradient.def_abstract_eval
def _(x, dy):
    return ShapedArray((TAPS, TAPS, x.shape[-1], dy.shape[-1]), x.dtype)


def _batch_conv(args, axes):
    (x, kernel), (x_axis, kernel_axis) = args, axes
    if kernel_axis is not None:
        return jax.vmap(_direct, axes)(x, kernel), 0
    x = jnp.moveaxis(x, x_axis, 0)  # one more batch axis: fold it into the batch
    y = _conv.bind(x.reshape(-1, *x.shape[2:]), kernel)
    return y.reshape(*x.shape[:2], *y.shape[1:]), 0


for primitive, direct, on_cpu in (
    (_conv, _direct, _conv_on_cpu),
    (_kernel_gradient, _direct_kernel_gradient, _kernel_gradient_on_cpu),
):
    primitive.def_impl(jax.jit(primitive.bind))
    mlir.register_lowering(primitive, mlir.lower_fun(direct, multiple_results=False))
    mlir.register_lowering(primitive, mlir.lower_fun(on_cpu, multiple_results=False), platform="cpu")

batching.primitive_batchers[_conv] = _batch_conv
batching.primitive_batchers[_kernel_gradient] = lambda args, axes: (jax.vmap(_direct_kernel_gradient, axes)(*args), 0)
