"""Tensors from a safetensors file, as numpy arrays.

The file is a JSON header with names, kinds, shapes and places, followed by the numbers.

Source: the format's description, https://github.com/huggingface/safetensors#format.
"""

import io
import math
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from score_sde.importers.weight_files import dtype_of
from score_sde.internal.files import parse_json
from score_sde.internal.guarded import check_name, is_shape, open_file, reading, shortened

DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "bfloat16",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U8": "|u1",
    "BOOL": "|b1",
}
LARGEST_HEADER = (
    10_000_000  # bytes, for 100,000 tensors. The format allows ten times as many; Python needs 20 times the bytes
)


class _Place(NamedTuple):
    dtype: np.dtype
    shape: list[int]
    begin: int
    end: int


def read_safetensors(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Every tensor of a file: name -> array.

    Raises: ValueError for a file of another kind, a file that is cut or too long, or a header that
      contradicts itself. OSError where the file cannot be opened.
    """
    with reading(path, "safetensors", "get it again"), open_file(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        start = 8 + int.from_bytes(file.read(8), "little")
        if start > size or file.read(1) != b"{":
            raise ValueError("it does not begin as a safetensors file")
        if start - 8 > LARGEST_HEADER:
            raise ValueError(f"a header of {start - 8:,} bytes, more than {LARGEST_HEADER:,}")
        file.seek(8)
        header = parse_json(file.read(start - 8), "its header", "it is not used")
        places = {name: _place(name, entry) for name, entry in header.items() if name != "__metadata__"}
        _check_places(places, size - start)
        return {name: _read(file, start, place) for name, place in places.items()}


def _place(name: str, entry: Any) -> _Place:
    """(kind, shape, begin, end) of a tensor.

    Raises: ValueError where they do not agree with each other.
    """
    check_name(name)
    match entry:
        case {"dtype": str(kind), "shape": list(shape), "data_offsets": [int(begin), int(end)]} if is_shape(shape):
            if kind not in DTYPES:
                raise ValueError(f"the kind {shortened(kind)!r} is not one of {', '.join(DTYPES)}")
            dtype = dtype_of(DTYPES[kind])
            if begin < 0 or end - begin != math.prod(shape) * dtype.itemsize:
                raise ValueError(f"a tensor {shape} of {dtype} cannot lie at {begin} to {end}")
            return _Place(dtype, shape, begin, end)
        case _:
            raise ValueError(f"tensor {shortened(name)!r} needs a dtype, a shape and two data_offsets")


def _check_places(places: dict[str, _Place], size: int) -> None:
    """Raises ValueError where tensors overlap, or do not cover all `size` bytes. The format forbids both."""
    taken = 0
    for name, place in sorted(places.items(), key=lambda item: (item[1].begin, item[1].end)):
        if place.begin != taken:
            what = "overlaps the one before" if place.begin < taken else "leaves out bytes before it"
            raise ValueError(f"tensor {shortened(name)!r} {what}")
        taken = place.end
    if taken != size:
        raise ValueError(f"it has {size:,} bytes of numbers, and should have {taken:,} by its header")


def _read(file: io.BufferedIOBase, start: int, place: _Place) -> np.ndarray:
    file.seek(start + place.begin)
    return np.frombuffer(file.read(place.end - place.begin), place.dtype).reshape(place.shape)
