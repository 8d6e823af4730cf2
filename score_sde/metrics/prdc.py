"""Precision, recall, density and coverage of samples against a reference."""

import dataclasses

import numpy as np

from score_sde.metrics.base import Inputs, Metric, Needs, Result
from score_sde.metrics.neighbours import neighbourhoods

CUSTOMARY = (10_000, 50_000)  # the sizes of each set in the papers
_NAMES = {"precision": "precision", "recall": "recall", "density": "prdc_density", "coverage": "coverage"}


@dataclasses.dataclass(frozen=True)
class PRDC(Metric):
    """Fractions of each set within balls around the other set's examples, up to the k-th neighbour; see `neighbourhoods`.

    Attributes:
      k: the number of the neighbour at which a ball ends.
      most: the most examples of each set that are compared. Each call draws the same ones.
    Error: the spread over seeds. All four depend on the number of examples, so compare equal
      numbers only.
    Source: Kynkäänniemi et al., arXiv 1904.06991; Naeem et al., arXiv 2002.09797.
    """

    k: int = 5
    most: int = 10_000

    name = "prdc"
    results = tuple(_NAMES.values())
    title = "precision, recall, density and coverage"
    needs = Needs(rows=True)
    better = "higher"

    @property
    def least_samples(self) -> int:
        return self.k + 1  # a ball reaches to the k-th other example

    def compute(self, inputs: Inputs) -> dict[str, Result]:
        real, generated = inputs.reference.rows(self.name), inputs.pool
        count = min(len(real), len(generated), self.most)
        rng = np.random.default_rng(0)  # a random choice, because a source may be in the order of its classes
        parts = [x[np.sort(rng.permutation(len(x))[:count])] for x in (real, generated)]
        shares = neighbourhoods(parts[0], parts[1], k=self.k)._asdict()
        note = f"{count} of each, k={self.k}"
        return {_NAMES[name]: {"value": value, "examples": count, "note": note} for name, value in shares.items()}

    def warnings(self, inputs: Inputs) -> list[str]:
        """A warning for another number of examples than in the papers."""
        count = min(len(inputs.pool), len(inputs.reference.rows(self.name)), self.most)
        if count in CUSTOMARY:
            return []
        usual = " or ".join(f"{number:,}" for number in CUSTOMARY)
        text = f"precision, recall, prdc_density and coverage are of {count:,} of each set, and published numbers of {usual}"
        return [f"{text}: they depend on it."]
