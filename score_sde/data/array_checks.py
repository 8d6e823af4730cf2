"""Checks of an array of examples: its levels, its scale and its axes.

An array that can be read in two ways raises an error. The values of images are read part by part,
until only one reading is possible.
"""

import math
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

FAR = 32.0  # larger values are not normalized images or latents of autoencoders; 0 to 255 is far beyond it
MOST_CHANNELS = 4  # the most channels of an image array when `channels` is None
PART = 2**26  # the number of bytes that are read at a time
LEAST_SHARE = 1e-2  # the smallest part of a given value_range that the values must fill

Array = Shaped[np.ndarray, "*any"]


class Span(NamedTuple):
    """The smallest and the largest value, infinities included and NaN excluded, and whether all values are whole numbers."""

    low: float
    high: float
    is_whole: bool


def span_of(x: Array, is_clear: Callable[[Span], bool] = lambda span: False) -> Span:
    """The span of all values, or of the first rows, if `is_clear` says that these rows are enough."""
    span = Span(math.inf, -math.inf, is_whole=True)
    rows = max(1, PART * len(x) // max(x.nbytes, 1))
    for start in range(0, len(x), rows):
        part = np.asarray(x[start : start + rows])
        low, high = float(np.fmin.reduce(part, axis=None)), float(np.fmax.reduce(part, axis=None))
        is_whole = span.is_whole and (part.dtype.kind != "f" or bool((part == np.rint(part)).all()))
        span = Span(min(span.low, low), max(span.high, high), is_whole)
        if is_clear(span):
            break
    return span


def levels_of(
    path: pathlib.Path,
    x: Array,
    levels: int | None,
    value_range: tuple[float, float] | None,
    channels: int | None,
) -> int | None:
    """The number of levels of an array, or None for a floating array.

    Raises: ValueError for an array that cannot be used.
    """
    if x.ndim < 2 or not len(x):
        raise ValueError(f"ArraySource needs an array [n, ...] with n >= 1 and another axis, got {x.shape} in {path}.")
    if x.dtype.kind == "f":
        if levels is not None or (value_range is not None and not value_range[0] < value_range[1]):
            raise ValueError(f"A floating array needs levels=None and low < high, got {levels=}, {value_range=}.")
    elif value_range is not None:
        raise ValueError(f"Quantized data map to [-1, 1] by their levels, got {value_range=}; leave it out.")
    elif x.dtype.kind not in "iub":
        raise ValueError(
            f"ArraySource needs numbers (uint8, bool, floating, or integers with levels), got {x.dtype} in {path}."
        )
    check_axes(path, x, channels)
    if x.dtype.kind == "f":
        _check_scale(path, x, value_range)
        return None
    if levels is None:
        return _default_levels(path, x)
    return levels


def check_axes(path: pathlib.Path, x: Array, channels: int | None) -> None:
    """Raises ValueError where the channels are not on the last axis, are missing, or may be elsewhere."""
    found = f"got {x.dtype} of shape {x.shape} in {path}"
    if channels is not None and x.shape[-1] != channels:
        raise ValueError(
            f"ArraySource needs {channels} channels on the last axis, {found}; set channels_first=True where they stand on "
            "axis 1, or set channels."
        )
    if channels is None and x.ndim >= 3 and x.shape[1] <= MOST_CHANNELS < x.shape[-1]:
        raise ValueError(
            f"ArraySource needs the channels on the last axis, {found}, whose channels may be on axis 1; set "
            f"channels_first=True if they are, or channels={x.shape[-1]} if they are on the last axis."
        )
    is_square = x.ndim == 3 and x.shape[1] == x.shape[2]
    if channels is None and x.ndim == 3 and x.shape[-1] > MOST_CHANNELS and (is_square or x.dtype.kind != "f"):
        raise ValueError(
            f"ArraySource needs images [n, h, w, c] or signals [n, length, c], {found}, which may be grey images; add their "
            f"channel axis (x[..., None]), or set channels={x.shape[-1]} for signals."
        )


def _default_levels(path: pathlib.Path, x: Array) -> int:
    if x.dtype == np.bool_:
        return 2
    if x.dtype != np.uint8:
        span = span_of(x)
        advice = f"set levels={int(span.high) + 1}" if span.low >= 0 else "shift them to 0 and above, then set levels"
        also = " (256 for 8-bit images)" if span.low >= 0 and span.high < 256 else ""
        raise ValueError(
            f"ArraySource needs the number of levels of an integer array other than uint8, got {x.dtype} with values from "
            f"{span.low:g} to {span.high:g} in {path}; {advice}{also}."
        )
    if x.ndim == 4:
        span = span_of(x, lambda span: span.high >= FAR)
        if span.low < span.high < FAR:
            raise ValueError(
                f"ArraySource takes uint8 images as 256 levels, got only {span.low:g} to {span.high:g} in {path}; set "
                f"levels={int(span.high) + 1} to map these to [-1, 1], or levels=256 to keep the dark values."
            )
    return 256


def _check_scale(path: pathlib.Path, x: Array, value_range: tuple[float, float] | None) -> None:
    """Raises ValueError for floating images whose scale is not clear. Other data may have any unit."""
    if x.ndim != 4:
        return
    if value_range is not None:
        low, high = value_range
        share = (high - low) * LEAST_SHARE
        span = span_of(x, lambda span: span.high - span.low > share)
        if 0 < span.high - span.low <= share:
            raise ValueError(
                f"value_range={value_range} needs images that fill it, got values from {span.low:g} to {span.high:g} in "
                f"{path}; give the range that the values have."
            )
        return
    span = span_of(x, lambda span: span.low < 0)
    found = (
        f"ArraySource needs floating images of about [-1, 1], got values from {span.low:g} to {span.high:g} in {path}"
    )
    if not 0 <= span.low <= span.high:  # signed values, or only NaN; a NaN raises an error when its row is read
        return
    if span.low < span.high <= 1:
        raise ValueError(
            f"{found}; set value_range=(0.0, 1.0) to map them there, or value_range=(-1.0, 1.0) to take them as they are."
        )
    if FAR < span.high <= 255 or (255 < span.high <= 65535 and span.is_whole):
        top = 255 if span.high <= 255 else 65535
        bits = 8 if top == 255 else 16
        raise ValueError(
            f"{found}, like {bits}-bit levels; set value_range=(0.0, {top}.0) to map them there, or save them as uint{bits}"
            f"{' (with levels=65536)' if bits == 16 else ''}."
        )
