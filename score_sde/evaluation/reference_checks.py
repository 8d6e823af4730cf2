"""Checks of a reference: an invalid comparison raises an error, and an unknown or unusual fact gives a warning."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from score_sde.config import differences, plain
from score_sde.evaluation.features import DIGITS
from score_sde.experiment import Experiment
from score_sde.metrics import FeatureStatistics, Metric, Reference
from score_sde.metrics.features import Extractor

INCEPTION_DIMENSION = 2048
_ADVICE = "Make the right one with score-sde reference, or name another --reference."


def check_reference(reference: Reference, extractor: Extractor, experiment: Experiment) -> list[str]:
    """Warnings about a reference with which samples of a run are compared.

    Raises: ValueError where it was made with other features, or of images with another resolution,
      number of channels or crop.
    """
    samples = {"features": extractor.name, "extractor": extractor.digest, "shape": experiment.spec.shape}
    samples["crop"] = plain(experiment.config)["data"]["augment"].get("crop")
    return check_alike(reference, samples, "the samples'", "the samples are") + _other_data(reference, experiment)


def check_holds(reference: Reference, metrics: Sequence[Metric]) -> None:
    """Raises ValueError, before any sample is drawn, for a reference that lacks what a metric needs."""
    used: dict[str, FeatureStatistics] = {}
    for metric in metrics:
        if metric.needs.rows:
            reference.rows(metric.name)
        used |= {output: reference.statistics_of(output, metric.name) for output in metric.needs.statistics}
    for statistics in used.values():
        try:
            statistics.root  # noqa: B018  # kept there for the distances
        except (ValueError, np.linalg.LinAlgError) as error:
            raise ValueError(f"The reference {reference.name} holds no covariance: {error} {_ADVICE}") from error


def _other_data(reference: Reference, experiment: Experiment) -> list[str]:
    """Whether a reference with a data digest is not of all of the run's training data."""
    about, data, warnings = reference.description, plain(experiment.config)["data"], []
    if "source" not in about:
        return []
    differ = differences({"source": about["source"]}, {"source": data["train"]})
    if differ:
        warnings.append(
            f"{reference.name} (split {about.get('split')!r}) is not of the run's training data: {'; '.join(differ)}. "
            "Published numbers are against the training data."
        )
    sources = {"train": lambda: experiment.train_source, "eval": lambda: experiment.eval_source}
    whole = [len(source()) for split, source in sources.items() if data[split] == about["source"]]
    count = reference.num_examples
    if whole and count is not None and count < whole[0]:
        warnings.append(f"{reference.name} is of {count:,} of the {whole[0]:,} examples of its split only.")
    return warnings


def check_alike(reference: Reference, other: Mapping[str, Any], theirs: str, they_are: str) -> list[str]:
    """Warnings about unknown facts of a reference.

    Args:
      other: the description of the other set. A message calls its features `theirs`.
    Raises: ValueError where features, their weights, or the resolution, channels or crop of the
      images differ.
    """
    about = reference.description
    _check_features(reference, other, theirs)
    shapes = [tuple(description["shape"]) for description in (about, other) if "shape" in description]
    if len(set(shapes)) > 1:
        raise ValueError(
            f"The reference {reference.name} is of images {shapes[0]}, and {they_are} {shapes[1]}: resized images have "
            f"other features. {_ADVICE}"
        )
    crops = [
        description["crop"] and list(description["crop"]) for description in (about, other) if "crop" in description
    ]
    if len(crops) == 2 and crops[0] != crops[1]:
        raise ValueError(
            f"The reference {reference.name} is of images with crop={crops[0]}, and {they_are} images with crop={crops[1]}: "
            f"they show other parts of the images. {_ADVICE}"
        )
    if "shape" in about:
        return []
    return [f"{reference.name} ({about['format']}) does not tell its resolution, its images or how they were resized."]


def _check_features(reference: Reference, other: Mapping[str, Any], theirs: str) -> None:
    """Raises ValueError where features or their weights differ."""
    about = reference.description
    if about["features"] != other["features"]:
        raise ValueError(
            f"The reference {reference.name} holds features {about['features']!r}, and {theirs} are "
            f"{other['features']!r}: their distance means nothing. {_ADVICE}"
        )
    here, there = other.get("extractor"), about.get("extractor")
    if here and there and here != there:
        raise ValueError(
            f"The reference {reference.name} was made with other weights or preprocessing of {about['features']!r} (digest "
            f"{there[:DIGITS]} there, {here[:DIGITS]} here). {_ADVICE}"
        )
    dimension = len(reference.statistics["pool"].mean)
    if about["features"] == "inception" and dimension != INCEPTION_DIMENSION:
        raise ValueError(
            f"The reference {reference.name} has {dimension} features, and the InceptionV3 of FID has "
            f"{INCEPTION_DIMENSION}. {_ADVICE}"
        )
