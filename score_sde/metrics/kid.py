"""The kernel distance of samples from a reference: KID with Inception features, KD with others."""

import dataclasses

from score_sde.metrics.base import Inputs, Metric, Needs, Result
from score_sde.metrics.kernel_distance import kernel_distance


@dataclasses.dataclass(frozen=True)
class KID(Metric):
    """The mean over 100 subsets of the squared maximum mean discrepancy under a cubic kernel; see `kernel_distance`.

    Attributes:
      subset_size: the size of the subsets, but at most half of the smaller set. With larger
        subsets, the spread over subsets would vanish.
    Error: the standard error over the subsets. The subsets overlap, so the choice of the samples is
      not part of it.
    Source: Bińkowski et al., arXiv 1801.01401, Sec. 4.
    """

    subset_size: int = 1000

    name = "kid"
    results = ("kid", "kd")
    title = "kernel distance"
    needs = Needs(rows=True)
    least_samples = 4  # so that two disjoint halves have two samples each
    better = "lower"
    error = "standard_error"

    def compute(self, inputs: Inputs) -> dict[str, Result]:
        real = inputs.reference.rows(self.name)
        size = min(self.subset_size, min(len(real), len(inputs.pool)) // 2)
        found = kernel_distance(inputs.pool, real, subset_size=size)
        note = (
            f"100 subsets of {size}, which overlap: the error leaves out which samples were drawn; --seeds covers that"
        )
        result = {
            "value": found.mean,
            "standard_error": found.standard_error,
            "subset_size": size,
            "note": note,
        }
        return {inputs.named(self.results): result}
