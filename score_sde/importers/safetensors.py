"""Tensors out of a safetensors file, as numpy: a JSON header of names, kinds, shapes and places, then the numbers.

Source: the format's description, https://github.com/huggingface/safetensors#format.
"""

import json
import math
import pathlib
from typing import IO, Any

import jax.numpy as jnp
import numpy as np

DTYPES: dict[str, Any] = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": jnp.bfloat16,
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U8": "|u1",
    "BOOL": "|b1",
}
LARGEST_HEADER = 100_000_000  # bytes, the format's own limit


def read_safetensors(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Reads every tensor: name -> array.

    Raises: ValueError for a file of another kind, one that is cut or too long, or a header that contradicts itself.
    """
    path = pathlib.Path(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        if start > min(size, LARGEST_HEADER) or file.peek(1)[:1] != b"{":
            raise ValueError(f"read_safetensors needs a safetensors file, and {path} does not begin as one.")
        try:
            header = json.loads(file.read(start - 8))
            places = {name: _place(entry) for name, entry in header.items() if name != "__metadata__"}
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"The header of {path} is damaged: {error!r}.") from error
        expected = start + max((end for *_, end in places.values()), default=0)
        if expected != size:
            raise ValueError(f"{path} has {size:,} bytes, and should have {expected:,} by its header; get it again.")
        return {name: _read(file, start, *place) for name, place in places.items()}


def _place(entry: dict[str, Any]) -> tuple[np.dtype, list[int], int, int]:
    """Kind, shape, begin and end of a tensor. Raises: ValueError where they do not fit each other."""
    shape, (begin, end) = entry["shape"], entry["data_offsets"]
    if entry["dtype"] not in DTYPES:
        raise ValueError(f"kind {entry['dtype']!r} is none of {list(DTYPES)}")
    dtype = np.dtype(DTYPES[entry["dtype"]])
    if min((begin, *shape)) < 0 or end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"a tensor {shape} of {dtype} cannot lie at {begin} to {end}")
    return dtype, shape, begin, end


def _read(file: IO[bytes], start: int, dtype: np.dtype, shape: list[int], begin: int, end: int) -> np.ndarray:
    file.seek(start + begin)
    return np.frombuffer(file.read(end - begin), dtype).reshape(shape)
