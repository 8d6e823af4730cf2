"""A source of points from a density with a known log-probability."""

import dataclasses
import json

import numpy as np
from jaxtyping import Integer

from score_sde.data.base import DataSpec, Examples, Source
from score_sde.data.densities import DENSITIES, Density
from score_sde.data.digests import digest_of_json
from score_sde.data.hashing import fold, seed_key


class DensitySource(Source):
    """Example i is a point of a 2-D density, computed from (seed, i) when asked for.

    The points do not depend on `num_examples`. Two seeds give independent sets, so held-out data
    have another seed.

    Args:
      density: the name of the density, one of DENSITIES.
      num_examples: the length of an epoch.
      seed: the random seed of the points.
      labels: whether the component of a point (moon, ring, square, mode) is its "label".
      **parameters: fields of the density, such as std=0.05.

    Attributes:
      density: the density, with its exact `log_prob`.

    Raises: ValueError for an unknown name, or num_examples < 1.
    """

    def __init__(
        self, density: str, *, num_examples: int = 100_000, seed: int = 0, labels: bool = False, **parameters: object
    ):
        if density not in DENSITIES:
            raise ValueError(f"DensitySource needs a density of {', '.join(DENSITIES)}, got {density!r}.")
        if num_examples < 1:
            raise ValueError(f"DensitySource needs num_examples >= 1, got {num_examples}.")
        self.density: Density = DENSITIES[density](**parameters)
        self._seed = seed
        self._num_examples = num_examples
        self._key = seed_key(seed)
        self._labels = labels
        self.spec = DataSpec(
            shape=(self.density.dimension,),
            num_classes=len(self.density.weights) if labels else None,
            conditions={"label": ()} if labels else {},
        )

    def __len__(self) -> int:
        return self._num_examples

    def digest(self) -> str:
        """The digest of the density's fields and the seed, which determine every point."""
        fields = dataclasses.asdict(self.density)  # type: ignore[call-overload]  # every member is a dataclass
        # Twelve digits, because computed defaults such as cos(π/4) may differ in the last digits on other
        # machines.
        rounded = json.loads(
            json.dumps(fields, default=np.ndarray.tolist), parse_float=lambda text: f"{float(text):.12g}"
        )
        return digest_of_json({"density": type(self.density).__name__, "fields": rounded, "seed": self._seed})

    def gather(self, indices: Integer[np.ndarray, " b"]) -> Examples:
        """The points with the numbers `indices`."""
        points, component = self.density.draw(fold(self._key, indices))
        batch = {"x": points.astype(np.float32)}
        return {**batch, "label": component.astype(np.int32)} if self._labels else batch
