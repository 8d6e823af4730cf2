"""Checks of the number of samples: too few raise an error before they are drawn, and unusual numbers give a warning."""

from collections.abc import Sequence

from score_sde.metrics import Inputs, Metric, Reference

FEW = 10_000  # a reference with fewer images gets a warning


def check_counts(metrics: Sequence[Metric], num_samples: int, reference: Reference | None = None) -> None:
    """Raises ValueError for fewer samples, or fewer images in a reference, than a metric can be computed from."""
    for metric in metrics:
        metric.check(num_samples, reference)


def count_warnings(inputs: Inputs, metrics: Sequence[Metric]) -> list[str]:
    """The reasons why the numbers of these metrics cannot be compared with published numbers.

    First come the warnings of each metric. The warnings for all metrics with a reference follow.
    """
    count, warnings = len(inputs.pool), [text for metric in metrics for text in metric.warnings(inputs)]
    outputs = dict.fromkeys(output for metric in metrics for output in metric.needs.statistics)
    if not outputs:
        return warnings
    real = inputs.reference.num_examples
    if real is not None and real < FEW:
        warnings.append(
            f"The reference has only {real:,} images, fewer than the {FEW:,} below which its own error dominates; published "
            "references are of the whole training set."
        )
    for width in dict.fromkeys(len(inputs.reference.statistics[output].mean) for output in outputs):
        warnings += singular_warning(min(count, real or count), width)
    return warnings


def singular_warning(count: int, dimension: int) -> list[str]:
    """The reason why the smaller of two sets says little, if there is one."""
    if count > dimension:
        return []
    text = (
        f"{count:,} examples cannot tell a covariance of {dimension} features: it is singular, and much of the distance"
    )
    return [f"{text} may be bias."]
