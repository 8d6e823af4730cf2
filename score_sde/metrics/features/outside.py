"""Features by a callable outside of the package, "module:attribute".

The callable takes images [b, h, w, c] in 0…255, or other data in float32 without scaling. It
returns an array [b, d], or a dict of such arrays. Its attributes `digest` (a text that changes with
the weights) and `outputs` (names, "pool" among them) are used if they exist.
"""

import hashlib
import inspect
import pathlib
import sys

import numpy as np

from score_sde.config import from_outside
from score_sde.metrics.features.base import Extractor, Features, Images


def outside(name: str) -> Extractor:
    """The extractor of this name. Without a `digest`, its digest is the digest of the module's file.

    Raises: ValueError for a module that cannot be imported, or an attribute that does not exist or
      cannot be called.
    """
    function = from_outside(f"--features={name}", name)
    digest = getattr(function, "digest", None)
    if digest is None:
        file = inspect.getsourcefile(sys.modules[name.partition(":")[0]])
        source = pathlib.Path(file).read_bytes() if file else name.encode()
        digest = f"source {hashlib.sha256(source).hexdigest()}"
    outputs = tuple(getattr(function, "outputs", ("pool",)))

    def compute(images: Images, wanted: tuple[str, ...]) -> Features:
        result = function(images)
        named = result if isinstance(result, dict) else {"pool": result}
        return {name: np.asarray(values) for name, values in named.items()}

    return Extractor(name, str(digest), outputs, compute)
