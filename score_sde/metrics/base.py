"""The interface of a metric: a class that declares what it needs, and computes numbers with errors and warnings.

An evaluation knows metrics only by this interface. It provides what `Metric.needs` names. If a run
cannot provide it, the evaluation stops before a sample is drawn.
"""

import abc
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from score_sde.likelihood import BitsPerDim
from score_sde.metrics.reference import Reference
from score_sde.objectives.loss_by_noise_level import LossByNoiseLevel

# A number as a ledger holds it: "value", and where known "standard_error" or "split_sd", "interval" (the
# ends of a 95 % interval), "note" and more. All of it can be written as JSON. {"closest": [{"sample",
# "training_image", "distance"}]} asks for a picture of these pairs.
Result = dict[str, Any]
NORMAL = 1.96  # half the width of a 95 % interval, in standard errors
_SAMPLES = ("features", "extractor_digest", "num_samples")
_HELD_OUT = ("first_examples", "examples", "bin_width", "data.shape", "data.crop")
SPLIT_DIGESTS = {"train": "train_digest", "eval": "held_out_digest"}  # field of a result that needs the split


class Needs(NamedTuple):
    """The inputs of a metric.

    Attributes:
      outputs: the outputs of the feature extractor, for each sample. Empty: the metric does not use
        samples.
      statistics: the outputs, among "pool" and "spatial", of which the reference must hold a mean
        and a covariance.
      rows: whether the reference must hold its features themselves.
      splits: among "train" and "eval": the splits of the run's data whose features it needs.
      model: whether the metric calls the model itself.
      likelihood: whether the number depends on the config's `likelihood` section.
    """

    outputs: tuple[str, ...] = ("pool",)
    statistics: tuple[str, ...] = ()
    rows: bool = False
    splits: tuple[str, ...] = ()
    model: bool = False
    likelihood: bool = False


class Model(abc.ABC):
    """The evaluated model, for metrics that need it. Held-out data are the run's `data.eval`.

    Attributes:
      experiment: the objects of the run's config, such as the denoiser, the SDE, the data and the
        generator.
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
        """The error of ε̂ on held-out data. It writes its table and picture to the run's folder."""

    @abc.abstractmethod
    def bits_per_dim(self) -> BitsPerDim:
        """The bits/dim of held-out data. It writes its file to the run's folder."""

    @abc.abstractmethod
    def density(self) -> dict[str, float]:
        """The learned density of points against the exact density. It writes its file and picture to the run's folder."""


class Inputs(NamedTuple):
    """The inputs that an evaluation gives to a metric.

    Attributes:
      features: the features of the samples, one row each, by output of the extractor: "pool" and
        the outputs in `Needs.outputs`.
      reference: the reference of the samples.
      extractor: the name of the features.
      resamples: the number of bootstrap resamples. 0 is an interval without a bootstrap, and None
        is the metric's own choice.
      first_index: the index of the first sample.
      split: "train" or "eval" -> the reference of this split of the run's data, with its features.
      held: the model. A metric reads it as `model`.
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
        """The features between which distances are computed."""
        return self.rows("pool")

    def rows(self, output: str) -> Float[np.ndarray, "n _"]:
        """The samples' features of an output.

        Raises: ValueError for an output that is not in the metric's `needs`.
        """
        if output not in self.features:
            given = sorted(self.features)
            raise ValueError(f"A metric of the output {output!r} names it in Needs(outputs=…), got only {given}.")
        return self.features[output]

    @property
    def model(self) -> Model:
        """The model.

        Raises: ValueError for a metric whose `needs` do not name it.
        """
        if self.held is None:
            raise ValueError("A metric that asks the model itself says Needs(model=True), got model=False.")
        return self.held

    def split_reference(self, split: str) -> Reference:
        """The reference of a split of the run's data.

        Raises: ValueError for a metric whose `needs` do not name it.
        """
        if self.split is None:
            raise ValueError(f"A metric of the images of the split {split!r} names it in Needs(splits=…), got none.")
        return self.split(split)

    def only(self, needs: Needs) -> "Inputs":
        """The inputs that `needs` names, and no others. A metric that reads another input then fails at once."""
        outputs = ("pool", *needs.outputs) if needs.outputs else ()
        return self._replace(
            features={name: rows for name, rows in self.features.items() if name in outputs},
            split=self.split if needs.splits else None,
            held=self.held if needs.model else None,
        )

    def named(self, names: tuple[str, ...]) -> str:
        """The first of two names with Inception features, as published, and the second with all other features."""
        return names[0] if self.extractor == "inception" else names[1]


class Metric(abc.ABC):
    """One or several numbers that measure a model or its samples.

    A metric sets `name`, `needs` and `compute`. Everything else has a default. Each property may be
    a class attribute, or a field of a frozen dataclass.
    """

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """The name in --metrics."""

    @property
    def results(self) -> tuple[str, ...]:
        """All names that its numbers may have in a ledger. Each is also a name of the metric in --metrics."""
        return (self.name,)

    @property
    def aliases(self) -> tuple[str, ...]:
        """Further names in --metrics."""
        return ()

    @property
    def title(self) -> str:
        """The name in the title of a plot."""
        return self.name

    @property
    def unit(self) -> str:
        """The unit of its values, or "" for none."""
        return ""

    @property
    def needs(self) -> Needs:
        """The inputs of the metric."""
        return Needs()

    @property
    def least_samples(self) -> int:
        """The smallest number of samples, and of features of the reference if it needs them."""
        return 2

    @property
    def better(self) -> str:
        """Which values are better: "lower", "higher", or "" for neither.

        With several seeds, the least value of a "lower" metric is in the row.
        """
        return ""

    @property
    def error(self) -> str:
        """The field of a result with its error: "standard_error", "split_sd", or "" if only several seeds give an error."""
        return ""

    @property
    def bootstraps(self) -> bool:
        """Whether it uses `Inputs.resamples`, which --bootstrap sets."""
        return False

    @property
    def compared_too(self) -> tuple[str, ...]:
        """Fields that `compared` has besides the fields of `needs`, such as "result.log_snr"."""
        return ()

    @property
    def compared(self) -> tuple[str, ...]:
        """The fields of a ledger's row that must be equal for two of its numbers to be compared, from `needs`."""
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
        """Checks, before a sample is drawn, that there are enough samples, and checks the reference once it is known.

        Raises: ValueError for fewer samples, or fewer images in the reference, than the metric
          needs.
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
        """The reasons why its numbers must not be compared with published numbers."""
        del inputs
        return []
