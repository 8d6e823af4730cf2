"""Halving and doubling of every spatial axis with a short filter.

A filter is given by its taps, which are scaled to the sum 1. (1, 1) is the plain filter: the mean
of two on the way down, the nearest neighbour on the way up. (1, 3, 3, 1) is the FIR filter of
NCSN++. Beyond the border the signal is 0. The response to an impulse is the taps in their order. So
k, the weights of the signal in the sums below, are the taps in reverse order.

Source: Zhang, arXiv 1904.11486; the alignment of Karras et al., arXiv 1912.04958 (`upfirdn`), as in
  score_sde.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Taps = Sequence[int | float]


def downsample(x: Float[Array, "b *space c"], taps: Taps) -> Float[Array, "b *half c"]:
    """y[i] = Σ_m k[m] x[2i + m − p] along every spatial axis, with p = ⌈(len(k) − 2) / 2⌉ and Σ k = 1."""
    surplus = len(taps) - 2
    for axis in range(1, x.ndim - 1):
        padded = pad(x, axis, (surplus + 1) // 2, surplus // 2)
        x = fir(padded, taps, axis, stride=2)
    return x


def upsample(x: Float[Array, "b *space c"], taps: Taps) -> Float[Array, "b *double c"]:
    """y[j] = 2 Σ_m k[m] z[j + m − p] along every spatial axis, z = x with zeros between, p = ⌈len(k) / 2⌉, Σ k = 1.

    Even and odd j meet different taps. Each of the two is therefore a short filter of x itself, and
    no product with a zero is computed.
    """
    for axis in range(1, x.ndim - 1):
        phases = [_phase(x, taps, axis, phase) for phase in (0, 1)]
        shape = (*x.shape[:axis], 2 * x.shape[axis], *x.shape[axis + 1 :])
        x = jnp.stack(phases, axis + 1).reshape(shape)
    return x


def blur(x: Float[Array, "b *space c"], taps: Taps, width: int) -> Float[Array, "b *new_space c"]:
    """y[i] = Σ_m k[m] x[i + m − p] along every axis, with the border for a convolution of `width` and stride 2.

    Blur and convolution together are a downsampling convolution, with p = ⌈(len(k) + width − 3) /
    2⌉ (`conv_downsample_2d` of score_sde).
    """
    surplus = len(taps) - 2 + width - 1
    for axis in range(1, x.ndim - 1):
        x = fir(pad(x, axis, (surplus + 1) // 2, surplus // 2), taps, axis)
    return x


def fir(x: Float[Array, "b *space c"], taps: Taps, axis: int, stride: int = 1) -> Float[Array, "b *new_space c"]:
    """y[i] = Σ_m k[m] x[stride · i + m] along one axis, only where the whole filter lies on the signal; Σ k = 1."""
    last = x.shape[axis] - len(taps) + 1
    total = sum(taps)
    terms = [(tap / total) * jax.lax.slice_in_dim(x, m, last + m, stride, axis) for m, tap in enumerate(reversed(taps))]
    return sum(terms[1:], start=terms[0])


def pad(x: Float[Array, "b *space c"], axis: int, before: int, after: int) -> Float[Array, "b *new_space c"]:
    """Adds zeros along one axis. A negative count removes entries."""
    widths = [(before, after, 0) if i == axis else (0, 0, 0) for i in range(x.ndim)]
    return jax.lax.pad(x, jnp.zeros((), x.dtype), widths)


def _phase(x: Float[Array, "b *space c"], taps: Taps, axis: int, phase: int) -> Float[Array, "b *space c"]:
    """The outputs j = 2i + phase of `upsample`, from the taps that fall on samples of x."""
    offset = phase - (len(taps) + 1) // 2
    terms = []
    for m, tap in enumerate(reversed(taps)):
        if (offset + m) % 2 == 0:
            shift = (offset + m) // 2
            terms.append((2 * tap / sum(taps)) * pad(x, axis, -shift, shift))
    return sum(terms[1:], start=terms[0])
