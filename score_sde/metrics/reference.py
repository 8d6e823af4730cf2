"""What samples are compared with: the statistics of a set of images and, where they were kept, its features."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from score_sde.metrics.statistics import FeatureStatistics


class Reference(NamedTuple):
    """What samples are compared with.

    Fields: `statistics`, of "pool" and where known of "spatial", have count 0 where the file does not tell it;
    `description` says what they are of; `features` are the rows themselves, or None where they were not kept.
    """

    name: str
    digest: str
    statistics: dict[str, FeatureStatistics]
    description: dict[str, Any]
    features: Float[np.ndarray, "n d"] | None = None

    @property
    def num_examples(self) -> int | None:
        """How many images, or None where the file does not tell."""
        return self.statistics["pool"].count or None

    def rows(self, metric: str) -> Float[np.ndarray, "n d"]:
        """The features. Raises: ValueError where its file does not hold them."""
        if self.features is None:
            raise ValueError(
                f"{metric} needs the features of the reference, and {self.name} holds only their mean and covariance; make "
                "it with `score-sde reference --keep_features`, or say --reference=train."
            )
        return self.features

    def statistics_of(self, output: str, metric: str) -> FeatureStatistics:
        """The statistics of an output of the extractor. Raises: ValueError where its file does not have them."""
        if output not in self.statistics:
            raise ValueError(
                f"{metric} needs {output} statistics, which {self.name} does not have; make the reference with "
                "score-sde reference, or read ADM's file with mu_s and sigma_s."
            )
        return self.statistics[output]
