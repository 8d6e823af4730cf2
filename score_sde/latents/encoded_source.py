"""A source of encoded examples. Each example is encoded once if memory allows."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int32, Integer

from score_sde.data.base import Examples, Source
from score_sde.data.cache import ExampleCache
from score_sde.latents.codec import Codec, check_codec


class EncodedSource(Source):
    """Example i is encode(x_i), with the label and the conditions of x_i.

    Encoded examples are kept in memory if all of them together take at most `cache_bytes`.
    Otherwise each example is encoded every time it is read.

    Raises: ValueError for a codec that cannot encode these data, or whose shapes contradict its
      `spec`.
    """

    def __init__(self, source: Source, codec: Codec, cache_bytes: int = 2**30):
        check_codec(codec, source.spec)
        self.spec = codec.spec(source.spec)
        self._source, self._codec = source, codec
        self._cache = ExampleCache(self._encoded, len(source), cache_bytes)

    def __len__(self) -> int:
        return len(self._source)

    def gather(self, indices: Integer[np.ndarray, " b"]) -> Examples:
        """z at `indices` in float32, with the label and the conditions."""
        return self._cache(indices)

    def labels_at(self, indices: Integer[np.ndarray, " b"]) -> Int32[np.ndarray, " b"]:
        """The labels of the data. Nothing is encoded for them."""
        return self._source.labels_at(indices)

    def digest(self) -> str | None:
        """The digest of the data. The codec is in the config."""
        return self._source.digest()

    def summary(self) -> str:
        """The summary of the data, and the spec of the encoded examples."""
        return f"{self._source.summary()}; encoded as {self.spec.shape}"

    def _encoded(self, indices: Integer[np.ndarray, " b"]) -> Examples:
        examples = self._source.gather(indices)
        z = self._codec.encode(jnp.asarray(self._source.spec.scale(examples["x"])))
        return {**examples, "x": np.asarray(z, np.float32)}
