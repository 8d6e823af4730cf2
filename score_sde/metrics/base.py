"""What a metric is: a class that says what it needs, and turns that into numbers with their errors and warnings.

An evaluation knows metrics by this interface alone. It provides what `Metric.needs` names. Where a run cannot provide it,
the evaluation stops before a sample is drawn.
"""

import abc
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from score_sde.likelihood import BitsPerDim
from score_sde.metrics.reference import Reference
from score_sde.objectives.loss_by_noise_level import LossByNoiseLevel

# A number as a ledger holds it: "value", and where they are known "standard_error" or "split_sd", "interval" (two numbers
# that hold 95 %), "note" and more. All of it can be written as JSON. {"closest": [{"sample", "training_image",
# "distance"}]} asks for a picture of these pairs.
Result = dict[str, Any]
NORMAL = 1.96  # standard errors on each side of a 95 % interval
_SAMPLES = ("features", "extractor_digest", "num_samples")
_HELD_OUT = ("first_examples", "examples", "bin_width", "data.shape", "data.crop")
SPLIT_DIGESTS = {"train": "train_digest", "eval": "held_out_digest"}  # field of a result that needs the split


class Needs(NamedTuple):
    """What a metric is computed from.

    Attributes:
      outputs: of the feature extractor, for each sample. Empty: the metric is not of samples.
      statistics: outputs of which the reference must hold a mean and a covariance, among "pool" and "spatial".
      rows: whether the reference must hold its features themselves.
      splits: among "train" and "eval": the features of all images of this split of the run's data.
      model: whether the metric asks the model itself.
      likelihood: whether the number depends on the config's `likelihood` section.
    """

    outputs: tuple[str, ...] = ("pool",)
    statistics: tuple[str, ...] = ()
    rows: bool = False
    splits: tuple[str, ...] = ()
    model: bool = False
    likelihood: bool = False


class Model(abc.ABC):
    """The model that is evaluated, for metrics that need it. Held-out data are the run's `data.eval`.

    Attributes:
      experiment: the objects that the run's config builds, such as the denoiser, the SDE, the data and the generator.
      params: the average of the parameters that is evaluated.
    """

    experiment: Any
    params: Any

    @property
    @abc.abstractmethod
    def num_held_out(self) -> int:
        """The number of held-out examples."""

    @abc.abstractmethod
    def noise_levels(self) -> LossByNoiseLevel:
        """The error of ε̂ on held-out data."""

    @abc.abstractmethod
    def bits_per_dim(self) -> BitsPerDim:
        """The bits/dim of held-out data."""

    @abc.abstractmethod
    def density(self) -> dict[str, float]:
        """The learned density of points against the exact one."""


class Inputs(NamedTuple):
    """What an evaluation gives a metric.

    Attributes:
      features: of the samples, a row each, by output of the extractor: "pool" and what `Needs.outputs` names.
      reference: what the samples are compared with.
      extractor: the name of the features.
      resamples: of a bootstrap, 0 for an interval without one, None for the metric's own choice.
      first_index: of the first sample.
      split: "train" or "eval" -> the reference of this split of the run's data, with its features.
      held: the model; a metric reads it as `model`.
    """

    features: Mapping[str, Float[np.ndarray, "n _"]]
    reference: Reference
    extractor: str
    resamples: int | None = None
    first_index: int = 0
    split: Callable[[str], Reference] | None = None
    held: Model | None = None

    @property
    def pool(self) -> Float[np.ndarray, "n d"]:
        """The features that distances are taken between."""
        return self.rows("pool")

    def rows(self, output: str) -> Float[np.ndarray, "n _"]:
        """The samples' features of an output. Raises: ValueError for one that the metric's `needs` do not name."""
        if output not in self.features:
            given = sorted(self.features)
            raise ValueError(f"A metric of the output {output!r} names it in Needs(outputs=…), got only {given}.")
        return self.features[output]

    @property
    def model(self) -> Model:
        """The model. Raises: ValueError for a metric whose `needs` do not name it."""
        if self.held is None:
            raise ValueError("A metric that asks the model itself says Needs(model=True), got model=False.")
        return self.held

    def split_reference(self, split: str) -> Reference:
        """The reference of a split of the run's data. Raises: ValueError for a metric whose `needs` do not name it."""
        if self.split is None:
            raise ValueError(f"A metric of the images of the split {split!r} names it in Needs(splits=…), got none.")
        return self.split(split)

    def only(self, needs: Needs) -> "Inputs":
        """What `needs` name, and nothing else: a metric that does not name what it reads fails at once."""
        outputs = ("pool", *needs.outputs) if needs.outputs else ()
        return self._replace(
            features={name: rows for name, rows in self.features.items() if name in outputs},
            split=self.split if needs.splits else None,
            held=self.held if needs.model else None,
        )

    def named(self, names: tuple[str, ...]) -> str:
        """The first of two names with Inception features, as published; the second with all other features."""
        return names[0] if self.extractor == "inception" else names[1]


class Metric(abc.ABC):
    """One or several numbers that say how good a model or its samples are.

    A metric sets `name`, `needs` and `compute`. Everything else has a default. Each property may be a class attribute or a
    field of a frozen dataclass instead.
    """

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """What --metrics calls it."""

    @property
    def results(self) -> tuple[str, ...]:
        """All names that its numbers may have in a ledger. Each is another name of the metric in --metrics."""
        return (self.name,)

    @property
    def aliases(self) -> tuple[str, ...]:
        """More names in --metrics."""
        return ()

    @property
    def title(self) -> str:
        """What the title of a plot calls it."""
        return self.name

    @property
    def unit(self) -> str:
        """The unit of its values, "" for none."""
        return ""

    @property
    def needs(self) -> Needs:
        """What it is computed from."""
        return Needs()

    @property
    def least_samples(self) -> int:
        """The number of samples, and of the reference's features where it needs them, from which it can be computed."""
        return 2

    @property
    def better(self) -> str:
        """Which values are better: "lower", "higher", or "" for neither. Of seeds, the least of a "lower" is in the row."""
        return ""

    @property
    def error(self) -> str:
        """The field of a result with its error: "standard_error", "split_sd", or "" where only several seeds tell it."""
        return ""

    @property
    def bootstraps(self) -> bool:
        """Whether it reads `Inputs.resamples`, so that --bootstrap means something."""
        return False

    @property
    def compared_too(self) -> tuple[str, ...]:
        """Fields beyond those of `compared`, as "result.log_snr"."""
        return ()

    @property
    def compared(self) -> tuple[str, ...]:
        """The fields of a ledger's row that are equal where two of its numbers may be compared; from `needs`."""
        needs, fields = self.needs, list(_SAMPLES if self.needs.outputs else ())
        if needs.statistics or needs.rows:
            fields.append("reference.digest")
        fields += [f"result.{SPLIT_DIGESTS[split]}" for split in needs.splits]
        if needs.model:
            fields += [*(f"held_out.{field}" for field in _HELD_OUT), "result.num_examples"]
        fields += ["likelihood"] * needs.likelihood
        return (*fields, *self.compared_too)

    @abc.abstractmethod
    def compute(self, inputs: Inputs) -> dict[str, Result]:
        """Its numbers by their names in the ledger, which are among `results`."""

    def check(self, num_samples: int, reference: Reference | None = None) -> None:
        """Checks, before a sample is drawn, whether so many samples are enough, and the reference once it is known.

        Raises: ValueError for fewer samples, or fewer images in the reference, than the number can be computed from.
        """
        least = self.least_samples
        if self.needs.outputs and num_samples < least:
            raise ValueError(
                f"{self.name} needs at least {least} samples, got {num_samples}; raise --num_samples to at least {least}."
            )
        images = None if reference is None or not self.needs.rows else reference.num_examples
        if reference is not None and images is not None and images < least:
            raise ValueError(
                f"{self.name} needs at least {least} images in the reference, got {images} in {reference.name}; name "
                "another --reference."
            )

    def warnings(self, inputs: Inputs) -> list[str]:
        """Why its numbers must not be held against published ones."""
        del inputs
        return []
