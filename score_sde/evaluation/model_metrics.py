"""Metrics of the model itself on held-out data. They need no samples.

The module also has the facts that tell whether two such numbers can be compared.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from score_sde import parallel
from score_sde.config import plain
from score_sde.evaluation.density import fit_of
from score_sde.evaluation.ledger import without_folders
from score_sde.experiment import Experiment
from score_sde.likelihood import BitsPerDim
from score_sde.metrics import Metric, Model
from score_sde.objectives.loss_by_noise_level import LossByNoiseLevel
from score_sde.runs.measures import describe_data, likelihood, noise_levels
from score_sde.trained import Trained
from score_sde.training.reporter import Reporter
from score_sde.training.state import Params


@dataclasses.dataclass(frozen=True)
class EvaluatedModel(Model):
    """A run's model at one step. Its measurements write their files to the folder."""

    trained: Trained
    reporter: Reporter
    max_examples: int | None = None

    @property
    def experiment(self) -> Experiment:
        """The experiment of the run's config."""
        return self.trained.experiment

    @property
    def params(self) -> Params:
        """The parameters that are evaluated."""
        return self.trained.params

    @property
    def num_held_out(self) -> int:
        """The number of held-out examples."""
        return len(self.experiment.eval_source)

    def noise_levels(self) -> LossByNoiseLevel:
        """The result of `run_noise_levels`."""
        levels = noise_levels(self.trained, self.max_examples, self.reporter)
        self.reporter.result("noise_levels", levels)
        return levels

    def bits_per_dim(self) -> BitsPerDim:
        """The result of `run_likelihood`."""
        bits = likelihood(self.trained, self.max_examples, self.reporter)
        self.reporter.result("bits_per_dim", bits)
        return bits

    def density(self) -> dict[str, float]:
        """The result of `run_density`."""
        fit = fit_of(self.trained, reporter=self.reporter)
        self.reporter.result("density", fit)
        return fit.numbers


def about_model(experiment: Experiment, metrics: Mapping[str, Metric]) -> dict[str, Any]:
    """The fields of a row about the held-out data, and about the computation of a likelihood, where a metric needs them."""
    row: dict[str, Any] = {}
    if any(metric.needs.model for metric in metrics.values()):
        data = describe_data(experiment, experiment.eval_batches(parallel.round_up(1, experiment.mesh)))
        data["data"]["source"] = without_folders(data["data"]["source"])
        row["held_out"] = data
    if any(metric.needs.likelihood for metric in metrics.values()):
        section = plain(experiment.config)["likelihood"]
        row["likelihood"] = {name: value for name, value in section.items() if name != "batch_size"}
    return row
