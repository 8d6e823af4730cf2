"""The reference of samples: the statistics of a set of images and, if they were kept, its features."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from score_sde.metrics.statistics import FeatureStatistics


class Reference(NamedTuple):
    """The reference with which samples are compared.

    Attributes:
      statistics: the statistics of "pool" and, where known, of "spatial". Their count is 0 where
        the file does not tell it.
      description: facts about the images and the features.
      features: the rows themselves, or None where they were not kept.
    """

    name: str
    digest: str
    statistics: dict[str, FeatureStatistics]
    description: dict[str, Any]
    features: Float[np.ndarray, "n d"] | None = None

    @property
    def num_examples(self) -> int | None:
        """The number of images, or None where the file does not tell it."""
        return self.statistics["pool"].count or None

    def rows(self, metric: str) -> Float[np.ndarray, "n d"]:
        """The features.

        Raises: ValueError where the reference's file does not hold them.
        """
        if self.features is None:
            raise ValueError(
                f"{metric} needs the features of the reference, and {self.name} holds only their mean and covariance; make "
                "it with `score-sde reference --keep_features`, or say --reference=train."
            )
        return self.features

    def statistics_of(self, output: str, metric: str) -> FeatureStatistics:
        """The statistics of an output of the extractor.

        Raises: ValueError where the reference's file does not have them.
        """
        if output not in self.statistics:
            raise ValueError(
                f"{metric} needs {output} statistics, which {self.name} does not have; make the reference with "
                "score-sde reference, or read ADM's file with mu_s and sigma_s."
            )
        return self.statistics[output]
