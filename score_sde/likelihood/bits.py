"""Bits per dimension of quantized data, from the density of a continuous model.

Let each of d numbers take levels with the spacing w. For example, 8-bit images in [−1, 1] have x =
2k/255 − 1 and w = 2/255. A model with density p gives the level vector x the probability of the bin
around x,

    P(x) = ∫ p over x + [−w/2, w/2]^d = w^d E_u[p(x̃)],   x̃ = x + (u − 1/2) w,   u uniform in [0, 1)^d.

By Jensen's inequality, log P(x) >= d log w + E_u[log p(x̃)]. In bits per dimension,

    −log2 P(x)/d <= E_u[−log p(x̃)]/(d ln 2) − log2 w.

The offset −log2 w changes units from densities to probabilities. It follows the scaling of the
data. For y = a x + c the density falls by |a|^d and the bins grow to |a| w, so bits/dim do not
change. With 256 levels in [0, 1], w is 1/255. In [−1, 1], w is 2/255 and the offset is 6.994. The
2021 code dequantizes (k + u)/256 in [0, 1] and models 2 (k + u)/256 − 1, where the bins are 2/256
wide. Its offset of 7 is −log2(2/256), which is wrong for any other scaling of the data.

Source: Theis et al., arXiv 1511.01844, Sec. 3.1; Ho et al., arXiv 1902.00275, Sec. 3.1.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer, Key

from score_sde import parallel
from score_sde.denoising.dynamics import Denoise
from score_sde.denoising.function_denoiser import needs_denoiser
from score_sde.internal.per_example import dimension
from score_sde.likelihood.density import LogProb, image_keys


class ExampleBits(NamedTuple):
    """bits/dim of the examples of one batch, on the host, in float64, without padding rows.

    `values[r, p, i]` belongs to example i, with the r-th dequantization and its p-th probe. `nfe`
    is summed over repeats.
    """

    values: Float[np.ndarray, "r p n"]
    nfe: Int[np.ndarray, " n"]


class BitsPerDim(NamedTuple):
    """bits/dim of a data set with the interval of its mean. For quantized data it is an upper bound.

    Attributes:
      mean: the mean over examples, each the mean over its repeats and probes.
      standard_error: the standard error of `mean`, from the spread between examples. Each example
        has its own dequantization and probes, so their noise is part of this spread. The interval
        therefore covers the choice of examples and both kinds of noise, but not the solver's error.
        NaN for one example.
      interval: mean ± a quantile of Student's t · standard_error.
      confidence: the confidence of the interval; 0.95 means 95 %.
      probe_standard_error: the part of the error that comes from the probes, from the spread
        between the probes of one solve. More probes would reduce it. None with one probe, as for
        the exact trace.
      repeat_standard_error: the part that comes from dequantization and probes, from the spread
        between repeats of one example. More repeats would reduce it. None with one repeat.
      per_example: bits/dim of each example, in the order of the batches.
      num_examples: the number of examples.
      nfe: the mean number of network evaluations for one example, over all its repeats together.
    """

    mean: float
    standard_error: float
    interval: tuple[float, float]
    confidence: float
    probe_standard_error: float | None
    repeat_standard_error: float | None
    per_example: Float[np.ndarray, " n"]
    num_examples: int
    nfe: float


def bits_per_dim(
    log_prob: Float[Array, "..."] | Float[np.ndarray, "..."],
    num_dims: int | Integer[np.ndarray, " b"],
    bin_width: float | None,
) -> Float[Array, "..."] | Float[np.ndarray, "..."]:
    """−log p(x̃)/(d ln 2) − log2 w.

    Args:
      log_prob: log p(x̃) of dequantized data, in nats per example.
      num_dims: d, one number or one for each example.
      bin_width: w, the spacing of the levels in the units of the model. None is for continuous
        data: the result is then the differential −log2 p(x)/d, which may be negative.
    Raises: ValueError unless num_dims >= 1 and bin_width > 0.
    """
    if np.any(np.asarray(num_dims) < 1):
        raise ValueError(f"bits_per_dim needs num_dims >= 1, got {num_dims}.")
    return -log_prob / (num_dims * math.log(2)) + _offset(bin_width)


def dequantize(
    key: Key[Array, ""], x: Float[Array, "b *shape"], bin_width: float, index: Int[Array, " b"] | None = None
) -> Float[Array, "b *shape"]:
    """x̃ = x + (u − 1/2) w, with u uniform in [0, 1).

    Image i draws u from fold_in(key, index[i]). index = None is 0, 1, …

    Raises: ValueError unless bin_width > 0.
    """
    _offset(bin_width)
    keys = image_keys(key, jnp.arange(x.shape[0]) if index is None else index)
    uniform = jax.vmap(lambda k: jax.random.uniform(k, x.shape[1:], x.dtype))(keys)
    return x + (uniform - 0.5) * bin_width


@needs_denoiser
def example_bits(
    key: Key[Array, ""],
    log_prob: LogProb,
    denoise: Denoise,
    x: Float[Array, "b *shape"],
    *,
    bin_width: float | None,
    num_repeats: int = 1,
    index: Int[Array, " b"] | None = None,
    mask: Bool[Array, " b"] | None = None,
) -> ExampleBits:
    """bits/dim of each example of a batch, `num_repeats` times with new dequantization and probes.

    Args:
      bin_width: w, see `bits_per_dim`. With None nothing is added to x.
      index: positions in the data set. They give image i the same noise and probes in any batch.
      mask: False on padding rows, which are left out.
    Raises: ValueError unless num_repeats >= 1 and bin_width > 0.
    """
    if num_repeats < 1:
        raise ValueError(f"example_bits needs num_repeats >= 1, got {num_repeats}.")
    values, nfe = [], np.zeros(x.shape[0], np.int64)
    size = np.asarray(parallel.to_host(dimension(x, denoise.weight)), np.int64)  # padding is no dimension
    num_dims = np.broadcast_to(size, x.shape[:1])
    for repeat in range(num_repeats):
        noise_key, probe_key = jax.random.split(jax.random.fold_in(key, repeat))
        noised = x if bin_width is None else dequantize(noise_key, x, bin_width, index)
        density = log_prob(probe_key, denoise, noised, index=index)
        per_probe, evaluations = parallel.to_host((density.per_probe, density.nfe))
        nats = np.asarray(per_probe, np.float64)
        values.append(bits_per_dim(nats, num_dims, bin_width))
        nfe = nfe + np.asarray(evaluations, np.int64)
    keep = np.ones(x.shape[0], bool) if mask is None else parallel.to_host(mask)
    return ExampleBits(np.stack(values)[:, :, keep], nfe[keep])


def summarize(batches: Iterable[ExampleBits], confidence: float = 0.95) -> BitsPerDim:
    """The mean over every example of all batches, with its interval. Each example counts once.

    Raises: ValueError for no example, for batches with different numbers of repeats or probes, or
      for a confidence outside of (0, 1).
    """
    from scipy.special import stdtrit

    batches = list(batches)
    shapes = {batch.values.shape[:2] for batch in batches}
    count = sum(batch.values.shape[2] for batch in batches)
    if count == 0 or len(shapes) != 1:
        raise ValueError(f"summarize needs examples, all with as many repeats and probes, got {count} with {shapes}.")
    if not 0 < confidence < 1:
        raise ValueError(f"summarize needs 0 < confidence < 1, got {confidence}.")
    values = np.concatenate([batch.values for batch in batches], axis=2)
    per_example = values.mean(axis=(0, 1))
    mean, error = float(per_example.mean()), math.nan
    if count > 1:
        error = float(per_example.std(ddof=1)) / math.sqrt(count)
    reach = float(stdtrit(count - 1, 0.5 + 0.5 * confidence)) * error if count > 1 else math.nan
    return BitsPerDim(
        mean=mean,
        standard_error=error,
        interval=(mean - reach, mean + reach),
        confidence=confidence,
        probe_standard_error=_draw_error(values, axis=1),
        repeat_standard_error=_draw_error(values.mean(axis=1, keepdims=True), axis=0),
        per_example=per_example,
        num_examples=count,
        nfe=float(np.concatenate([batch.nfe for batch in batches]).mean()),
    )


def _draw_error(values: Float[np.ndarray, "r p n"], axis: int) -> float | None:
    """The part of the standard error of the mean that comes from independent draws along `axis`.

    None for one draw.
    """
    draws = values.shape[axis]
    if draws < 2:
        return None
    variances = values.var(axis=axis, ddof=1) / draws
    return float(np.sqrt(variances.sum()) / variances.size)


def _offset(bin_width: float | None) -> float:
    """−log2 w, or 0 for continuous data."""
    if bin_width is None:
        return 0.0
    if not bin_width > 0:
        raise ValueError(f"bin_width needs to be > 0 (2/255 for 8-bit data in [-1, 1]), got {bin_width}.")
    return -math.log2(bin_width)
