"""SHA-256 digests by which a resumed run sees whether its data have changed, at a bounded cost.

Arrays of up to 64 MiB are hashed whole. For a larger array, the type, the shape and 1,024 blocks of
64 KiB are hashed. The blocks lie evenly from the first byte to the last. So a different array is
noticed, but a change between two blocks is not.
"""

import hashlib
import json
from typing import Any

import numpy as np
from jaxtyping import Shaped

WHOLE = 2**26  # bytes
BLOCK = 2**16  # bytes


def digest_of_json(value: Any) -> str:
    """The digest of JSON values. The order of the names does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def digest_of_array(array: Shaped[np.ndarray, "*any"]) -> str:
    """The digest of an array's type, shape and bytes. Large arrays are hashed by evenly spaced blocks."""
    digest = hashlib.sha256(json.dumps([array.dtype.str, array.shape]).encode())
    flat = array.ravel(order="K")  # for a file mapped into memory this is a view, so only the hashed blocks are read
    if flat.nbytes <= WHOLE:
        digest.update(np.ascontiguousarray(flat).view(np.uint8).data if flat.size else b"")
        return digest.hexdigest()
    size = BLOCK // flat.itemsize
    for start in np.linspace(0, flat.size - size, WHOLE // BLOCK).astype(np.int64).tolist():
        digest.update(np.ascontiguousarray(flat[start : start + size]).view(np.uint8).data)
    return digest.hexdigest()
