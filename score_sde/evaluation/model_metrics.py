"""Metrics of the model itself on held-out data, which need no samples, with what tells whether two such numbers compare."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from score_sde import parallel
from score_sde.config import plain
from score_sde.evaluation.density import run_density
from score_sde.evaluation.ledger import without_folders
from score_sde.experiment import Experiment
from score_sde.likelihood import BitsPerDim
from score_sde.metrics import Metric, Model
from score_sde.objectives.loss_by_noise_level import LossByNoiseLevel
from score_sde.runs.measures import describe_data, run_likelihood, run_noise_levels
from score_sde.training.state import Params


@dataclasses.dataclass(frozen=True)
class EvaluatedModel(Model):
    """A run's model at one step, whose numbers leave their files in the folder."""

    experiment: Experiment
    params: Params
    workdir: pathlib.Path
    step: int
    ema: str | None = None
    max_examples: int | None = None

    @property
    def num_held_out(self) -> int:
        """The number of held-out examples."""
        return len(self.experiment.eval_source)

    def noise_levels(self) -> LossByNoiseLevel:
        """As `run_noise_levels`."""
        return run_noise_levels(self.experiment, self.workdir, self.max_examples, self.step, self.ema)

    def bits_per_dim(self) -> BitsPerDim:
        """As `run_likelihood`."""
        return run_likelihood(self.experiment, self.workdir, self.max_examples, self.step, self.ema)

    def density(self) -> dict[str, float]:
        """As `run_density`."""
        return run_density(self.experiment, self.workdir, self.step, self.ema)


def about_model(experiment: Experiment, metrics: Mapping[str, Metric]) -> dict[str, Any]:
    """The fields of a row that tell the held-out data, and how a likelihood is computed, where a metric needs them."""
    row: dict[str, Any] = {}
    if any(metric.needs.model for metric in metrics.values()):
        data = describe_data(experiment, experiment.eval_batches(parallel.round_up(1, experiment.mesh)))
        data["data"]["source"] = without_folders(data["data"]["source"])
        row["held_out"] = data
    if any(metric.needs.likelihood for metric in metrics.values()):
        section = plain(experiment.config)["likelihood"]
        row["likelihood"] = {name: value for name, value in section.items() if name != "batch_size"}
    return row
