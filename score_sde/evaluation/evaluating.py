"""One evaluation: samples become features, features become numbers, and the numbers become a line of the ledger."""

import contextlib
import dataclasses
import datetime
import functools
import pathlib
import time
from typing import Any

import jax
import numpy as np

from score_sde import parallel
from score_sde.config import plain
from score_sde.evaluation.counts import check_counts, count_warnings
from score_sde.evaluation.features import FeatureSet, in_8_bits, sample_features
from score_sde.evaluation.ledger import digest_of_json, without_folders
from score_sde.evaluation.memorization import draw_closest
from score_sde.evaluation.metric_names import computed, told_outside
from score_sde.evaluation.model_metrics import EvaluatedModel, about_model
from score_sde.evaluation.reference_checks import check_holds, check_reference
from score_sde.evaluation.references import data_reference, load_reference
from score_sde.evaluation.request import Evaluation
from score_sde.evaluation.scores import over_seeds
from score_sde.experiment import Experiment
from score_sde.metrics import Inputs, Metric, Reference, Result
from score_sde.metrics.features import Extractor, get_extractor
from score_sde.plots.html_report import code_version, environment
from score_sde.runs.resuming import read_history
from score_sde.runs.streams import digest_of
from score_sde.trained import Trained
from score_sde.training.reporter import Reporter
from score_sde.training.stopping import kept


@dataclasses.dataclass(frozen=True)
class _Job:
    """One evaluation of one checkpoint, with the number of images that it drew and their time."""

    trained: Trained
    evaluation: Evaluation
    reporter: Reporter
    drawn: list[int] = dataclasses.field(default_factory=list)
    seconds: list[float] = dataclasses.field(default_factory=list)
    splits: dict[str, Reference] = dataclasses.field(default_factory=dict)

    @property
    def experiment(self) -> Experiment:
        """The experiment of the run's config."""
        return self.trained.experiment

    @property
    def workdir(self) -> pathlib.Path:
        """The folder of the run."""
        return self.trained.folder

    @functools.cached_property
    def extractor(self) -> Extractor:
        with self.stage(f"reading the weights of {self.evaluation.features}"):
            return get_extractor(self.evaluation.features, self.experiment.mesh)

    def stage(self, name: str) -> contextlib.AbstractContextManager[None]:
        """A context for a part of the work, which is named on the console if it takes long."""
        return self.reporter.stage(name)

    @functools.cached_property
    def metrics(self) -> dict[str, Metric]:
        """All metrics of the evaluation."""
        return self.evaluation.chosen

    @property
    def of_samples(self) -> dict[str, Metric]:
        """The metrics that need samples."""
        return {name: metric for name, metric in self.metrics.items() if metric.needs.outputs}

    @functools.cached_property
    def model(self) -> EvaluatedModel:
        """The model, for metrics that need no samples."""
        return EvaluatedModel(self.trained, self.reporter, self.evaluation.max_examples)

    @property
    def wanted(self) -> tuple[str, ...]:
        """The outputs of the extractor that the metrics need for samples."""
        return tuple(sorted({"pool"}.union(*(metric.needs.outputs for metric in self.of_samples.values()))))

    def split(self, name: str) -> Reference:
        """The reference of a split, with its features."""
        if name not in self.splits:
            outputs = {"pool"}.union(*(metric.needs.statistics for metric in self.of_samples.values()))
            made, features = data_reference(
                self.experiment,
                name,
                self.extractor,
                self.workdir / "references",
                wanted=tuple(sorted(outputs)),
                batch_size=self.evaluation.batch_size,
                quiet=self.reporter.quiet,
            )
            self.splits[name] = made._replace(features=features.read())
        return self.splits[name]

    def reference(self) -> Reference:
        """The reference of the file, or of a split with its features."""
        name = self.evaluation.reference
        return self.split(name) if name in ("train", "eval") else load_reference(pathlib.Path(name))

    def samples(self, seed: int) -> FeatureSet:
        """The features of one seed's images."""
        number, began = self.evaluation.num_samples, time.perf_counter()
        features = sample_features(
            self.experiment,
            self.trained.params,
            self.extractor,
            self.wanted,
            self.workdir / "evaluations",
            num_samples=number,
            batch_size=self.evaluation.batch_size,
            first_index=seed * number,
            keep_samples=self.evaluation.keep_samples,
            quiet=self.reporter.quiet,
            drawn=self.drawn,
        )
        self.seconds.append(time.perf_counter() - began)
        return features

    def score(self, inputs: Inputs, seed: int) -> dict[str, Result]:
        """All metrics of one seed's samples, with the pictures that the metrics ask for."""
        found: dict[str, Result] = {}
        for name, metric in self.of_samples.items():
            for split in metric.needs.splits:
                self.split(split)
            with self.stage(f"computing {name}"):
                results = computed(name, metric, inputs)
            for result, values in results.items():
                self.draw(f"{result}_{self.trained.step:08d}_seed{seed}.png", values, inputs.first_index)
            found |= results
        return found

    def draw(self, file: str, result: Result, first_index: int) -> None:
        """The picture of the closest pairs of a result that names them, if the data are images."""
        if "closest" in result and len(self.experiment.spec.shape) == 3:
            size = min(self.evaluation.batch_size, self.evaluation.num_samples)
            with self.stage("drawing the closest pairs"):
                draw_closest(self.experiment, self.trained.params, result, size, first_index, self.workdir / file)


def evaluate(trained: Trained, evaluation: Evaluation, reporter: Reporter | None = None) -> dict[str, Any]:
    """Evaluates a trained model. Returns the row of the ledger.

    The features of the samples are kept in the folder evaluations/ of the run, and the features of
    the data in references/. If the run is interrupted, the same call continues, and gives the same
    numbers. The results of metrics of the model itself are passed to the reporter.
    """
    folders = f"{trained.folder / 'evaluations'} and {trained.folder / 'references'}"
    with kept(f"the features computed so far are saved in {folders}. The same command goes on from there."):
        return _evaluate(_Job(trained, evaluation.checked(), reporter or Reporter()))


def _evaluate(job: _Job) -> dict[str, Any]:
    began, experiment, evaluation = time.perf_counter(), job.experiment, job.evaluation
    row = _identity(job) | {"ema": evaluation.ema or job.trained.average}
    results: dict[str, Result] = {}
    if evaluation.needs_samples:
        results, more = _feature_results(job)
        row |= more
    if job.drawn:
        number = sum(job.drawn)
        row |= {"images_drawn": number, "images_per_second": round(number / sum(job.seconds), 3)}
    nothing = Reference("none", "", {}, {})
    for name, metric in job.metrics.items():
        if name not in job.of_samples:
            results |= computed(name, metric, Inputs({}, nothing, "none", held=job.model))
    row |= about_model(experiment, job.metrics)
    return row | {"results": _told(job, results), "seconds": round(time.perf_counter() - began, 2)}


def _told(job: _Job, results: dict[str, Result]) -> dict[str, Result]:
    """The results, with the facts that a row needs about metrics from outside of the package."""
    told = {result: told_outside(name, metric) for name, metric in job.metrics.items() for result in metric.results}
    return {result: values | told[result] for result, values in results.items()}


def _identity(job: _Job) -> dict[str, Any]:
    """The fields that identify the evaluated model and the code."""
    config, about = plain(job.experiment.config), environment()
    origin = read_history(job.workdir).get("init_from")
    sampling = {name: value for name, value in config["sampling"].items() if name != "num_preview"}
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "workdir": str(job.workdir),
        "config_digest": digest_of_json(config),
        "step": job.trained.step,
        **({"init_from": without_folders(origin)} if origin else {}),
        "checkpoint_digest": digest_of(job.trained.params),
        "training_images": job.trained.step * config["training"]["batch_size"],
        "sampling": sampling,
        "commit": code_version(),
        "hardware": f"{about['devices']}; {about['processor']}",
        "versions": f"Python {about['Python']}, {about['packages']}",
        "command": job.evaluation.command(job.workdir, job.trained.step),
        "warnings": [],
    }


def _checked_reference(job: _Job) -> Reference:
    """The reference.

    Raises: ValueError for settings that cannot work, before any sample is drawn.
    """
    spec = job.experiment.spec
    job.extractor.check(job.wanted)
    job.extractor.check_data(spec.shape, np.uint8 if in_8_bits(spec) else np.float32)
    metrics = list(job.of_samples.values())
    check_counts(metrics, job.evaluation.num_samples)
    reference = job.reference()
    check_holds(reference, metrics)
    check_counts(metrics, job.evaluation.num_samples, reference)
    return reference


def _feature_results(job: _Job) -> tuple[dict[str, Result], dict[str, Any]]:
    """The metrics of samples over all seeds, and the fields of the row that belong to them."""
    reference = _checked_reference(job)
    evaluation, warnings = job.evaluation, check_reference(reference, job.extractor, job.experiment)
    per_seed, nfe = [], []
    resamples = evaluation.bootstrap if len(evaluation.seeds) == 1 else 0  # with several seeds, no interval is kept
    for seed in evaluation.seeds:
        features = job.samples(seed)
        rows, first = {name: features.read(name) for name in job.wanted}, seed * evaluation.num_samples
        inputs = Inputs(rows, reference, job.extractor.name, resamples, first, job.split, job.model)
        per_seed.append(job.score(inputs, seed))
        nfe.append(features.read("nfe").mean())
        if seed == evaluation.seeds[0]:
            with job.stage("estimating what 50,000 samples would have"):
                warnings += count_warnings(inputs, list(job.of_samples.values()))
        if not evaluation.keep_features:
            parallel.meet("all have read the features")
            if jax.process_index() == 0:
                features.remove()
    about = {"name": reference.name, "digest": reference.digest, "count": reference.num_examples}
    about |= {name: reference.description.get(name) for name in ("split", "crop", "source")}
    about["source"] = without_folders(about["source"])
    row: dict[str, Any] = {"features": job.extractor.name, "extractor_digest": job.extractor.digest, "reference": about}
    row |= {"num_samples": evaluation.num_samples, "seeds": list(evaluation.seeds), "nfe": float(np.mean(nfe))}
    metrics = job.of_samples.values()
    lower = {result for metric in metrics if metric.better == "lower" for result in metric.results}
    return over_seeds(per_seed, evaluation.seeds, lower), row | {"warnings": warnings}
