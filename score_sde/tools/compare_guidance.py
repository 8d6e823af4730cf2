"""Compares guidance rules at several scales: precision, recall, and the accuracy of the class.

The accuracy is the fraction of samples in which a classifier sees the class that was asked for.
"""

import csv
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.denoising.classifier import BoundClassifier
from score_sde.evaluation.evaluating import evaluate
from score_sde.evaluation.features import sample_features
from score_sde.evaluation.ledger import append_row
from score_sde.evaluation.request import Evaluation
from score_sde.experiment import Experiment, bound_model
from score_sde.generation.parts import NpzParts
from score_sde.guidance import GUIDANCE, Contrast
from score_sde.metrics import KernelClassifier, judge, oriented_gradients
from score_sde.metrics.classifier import MOST_EXAMPLES, Classifies, flatten
from score_sde.metrics.features import get_extractor
from score_sde.objectives.loss_by_noise_level import noise_levels
from score_sde.plots.scores import metric_panels
from score_sde.tools.solver_specs import section_of
from score_sde.trained import Trained, load
from score_sde.training.reporter import Reporter

ACCURACY = "class_accuracy"
SHOWN = ("precision", "recall", ACCURACY)
COLUMNS = ("rule", "scale", "nfe", *SHOWN, f"{ACCURACY}_error")
CONTRASTS = tuple(name for name, rule in GUIDANCE.items() if issubclass(rule, Contrast))
NOT_AT_ONE = ("cfg_plus_plus",)  # rules whose scale 1 is not the conditional model


class RunClassifier:
    """The classifier of a run with task.name=classification, at the lowest noise level of its evaluation."""

    def __init__(self, workdir: pathlib.Path, batch_size: int = 250):
        classify = bound_model(str(workdir), None, None)
        if not isinstance(classify, BoundClassifier):
            raise ValueError(
                f"--classifier needs a run with task.name=classification, and the run in {workdir} trained a "
                f"{type(classify).__name__}; leave the flag out for a classifier on the training data."
            )
        self._time = jnp.float32(noise_levels(classify.sde, 2)[0])
        self._classify, self._batch_size = jax.jit(classify), batch_size

    def probabilities(self, x: Float[np.ndarray | Array, "n *shape"]) -> Float[np.ndarray, "n k"]:
        """p(class | x)."""
        parts = [x[i : i + self._batch_size] for i in range(0, len(x), self._batch_size)]
        return np.exp(np.concatenate([np.asarray(self._classify(jnp.asarray(part), self._time)) for part in parts]))


def kernel_classifier(experiment: Experiment) -> KernelClassifier:
    """A classifier of the first training examples, on oriented gradients of images and on the values of other data."""
    source, spec = experiment.train_source, experiment.spec
    real = source.gather(np.arange(min(len(source), MOST_EXAMPLES)))
    return KernelClassifier.fit(
        spec.scale(real["x"]), real["label"], features=oriented_gradients if len(spec.shape) == 3 else flatten
    )


class Point(NamedTuple):
    """The numbers of one rule at one scale. `nfe` is the mean of the counted evaluations of an image."""

    rule: str
    scale: float
    nfe: float
    precision: float
    recall: float
    class_accuracy: float
    class_accuracy_error: float


class Comparison(NamedTuple):
    """What is compared.

    Attributes:
      workdir: the run, whose ledger gets a row for each point.
      rules: rules of guidance as on a command line, such as "apg(norm_threshold=5.0)". A rule
        `autoguidance` without a workdir takes the run itself.
      scales: the guidance scales.
      interval: (log_snr_min, log_snr_max), with which each rule is measured too. None: without.
      evaluation: the number of samples, the features and the overrides.
      step: the step of the checkpoint. None: the newest.
    """

    workdir: pathlib.Path
    rules: Sequence[str]
    scales: Sequence[float]
    interval: tuple[float, float] | None
    evaluation: Evaluation
    step: int | None = None

    def sections(self) -> dict[str, dict[str, Any]]:
        """The config section of each rule, by its label in the picture.

        Raises: ValueError for a rule that has no scale, and where no rule is given.
        """
        sections = {}
        for text in self.rules:
            section = section_of(text)
            if section["name"] not in CONTRASTS:
                raise ValueError(f"--rules needs rules with two answers, {', '.join(CONTRASTS)}, got {text!r}.")
            if section["name"] == "autoguidance":
                section = {"workdir": str(self.workdir), **section}
            sections[text] = section
            if self.interval is not None:
                low, high = self.interval
                sections[f"{text}, interval"] = section | {"log_snr_min": low, "log_snr_max": high}
        if not sections or not self.scales:
            raise ValueError("A comparison needs at least one rule and one scale; set --rules and --scales.")
        return sections


def compare_guidance(comparison: Comparison, classifier: Classifies | None, reporter: Reporter) -> list[Point]:
    """Measures each rule at each scale, and appends a row to the run's ledger for each.

    Scale 1 is the conditional model for most rules, so it is measured once for all of them. If the
    call is interrupted, the same call reuses the samples that were drawn.
    """
    sections = comparison.sections()
    measured: dict[str, tuple[float, float, float, float, float]] = {}
    points = []
    for label, section in sections.items():
        for scale in comparison.scales:
            is_plain = scale == 1 and section["name"] not in NOT_AT_ONE
            guidance = [] if is_plain else [{**section, "scale": float(scale)}]
            override = f"sampling.guidance={guidance!r}"
            if override not in measured:
                trained = load(
                    comparison.workdir, comparison.step, comparison.evaluation.ema, _with(comparison, override)
                )
                classifier = classifier or kernel_classifier(trained.experiment)
                measured[override] = _measure(trained, comparison, override, classifier)
            point = Point(label, float(scale), *measured[override])
            reporter.say(f"{label}, scale {scale:g}: " + ", ".join(f"{n} {getattr(point, n):.3f}" for n in SHOWN))
            points.append(point)
    return points


def _with(comparison: Comparison, override: str) -> tuple[str, ...]:
    return (*comparison.evaluation.overrides, override)


def _measure(
    trained: Trained, comparison: Comparison, override: str, classifier: Classifies
) -> tuple[float, float, float, float, float]:
    """(nfe, precision, recall, accuracy, its error), which also become a row of the ledger."""
    evaluation = comparison.evaluation._replace(
        metrics=("prdc",), keep_samples="npz", overrides=_with(comparison, override)
    ).checked()
    row = evaluate(trained, evaluation, Reporter(quiet=True))
    judgement = judge(classifier, *_samples(trained, evaluation))
    row["results"][ACCURACY] = {
        "value": judgement.accuracy,
        "standard_error": judgement.accuracy_error,
        "title": "samples in which a classifier sees their class",
        "better": "higher",
        "note": f"{type(classifier).__name__}, {judgement.count} samples",
    }
    append_row(trained.folder, row)
    shares = (row["results"][name]["value"] for name in ("precision", "recall"))
    return (row["nfe"], *shares, judgement.accuracy or 0.0, judgement.accuracy_error or 0.0)


def _samples(trained: Trained, evaluation: Evaluation) -> tuple[np.ndarray, np.ndarray]:
    """(the samples of the evaluation as the model sees them, the classes that they were drawn for)."""
    experiment = trained.experiment
    extractor = get_extractor(evaluation.features, experiment.mesh)
    features = sample_features(
        experiment,
        trained.params,
        extractor,
        ("pool",),
        trained.folder / "evaluations",
        num_samples=evaluation.num_samples,
        batch_size=evaluation.batch_size,
        keep_samples="npz",
        quiet=True,
    )
    kept = NpzParts(features.folder / "samples_npz", features.stored.firsts)
    labels = experiment.sampling_condition(0, evaluation.num_samples)["label"]
    x = kept.column("x")
    # The evaluation rounds images to 8 bits, also images of fewer levels.
    return x.astype(np.float32) * np.float32(2 / 255) - 1 if x.dtype == np.uint8 else x, np.asarray(labels)


def write_points(points: Sequence[Point], path: pathlib.Path) -> None:
    """The points as a CSV file, with a head."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([f"{value:.6g}" if isinstance(value, float) else value for value in point] for point in points)


def draw_points(points: Sequence[Point], path: pathlib.Path, title: str = "") -> None:
    """Precision, recall and accuracy against the scale, a line for each rule."""
    labels = list(dict.fromkeys(point.rule for point in points))
    panels = {}
    for name in SHOWN:
        curves = {}
        for label in labels:
            of_rule = [point for point in points if point.rule == label]
            errors = [point.class_accuracy_error if name == ACCURACY else 0.0 for point in of_rule]
            curves[label] = ([point.scale for point in of_rule], [getattr(point, name) for point in of_rule], errors)
        panels[name.replace("_", " ")] = curves
    metric_panels(panels, path, "guidance scale", title)
