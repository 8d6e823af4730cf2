"""The comparison of guidance rules, on a model whose samples and classes are known."""

import csv
import json

import numpy as np
import pytest

from experiments import compare_guidance as command
from experiments.results import run_guidance_comparison
from score_sde.evaluation.request import Evaluation
from score_sde.tools.compare_guidance import Comparison, RunClassifier, compare_guidance
from score_sde.training.reporter import Reporter
from tests.evaluation.evaluated import digits, save
from tests.guidance.test_runs import begun


class Parity:
    """Sees class 1 where the mean of the image is positive, and class 0 elsewhere."""

    def probabilities(self, x):
        sees = (x.mean(axis=(1, 2, 3)) > 0).astype(int)
        return np.eye(10)[sees]


def comparison(workdir, **fields):
    evaluation = Evaluation(metrics=("prdc",), num_samples=20, batch_size=20, features="pixels")
    given = {
        "rules": ["classifier_free"],
        "scales": [1.0, 3.0],
        "interval": (-2.0, 2.0),
        **fields,
    }
    return Comparison(workdir, evaluation=evaluation, **given)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    save(digits(), folder, (0, 2))
    return folder


def test_each_rule_is_measured_at_each_scale(run, tmp_path):
    points = run_guidance_comparison(comparison(run), Parity(), tmp_path / "out")
    labels = ["classifier_free", "classifier_free, interval"]
    assert [(point.rule, point.scale) for point in points] == [(label, scale) for label in labels for scale in (1, 3)]
    plain, guided, again, inside = points
    assert again[2:] == plain[2:]  # scale 1 is one measurement
    assert guided.nfe == 2 * plain.nfe and plain.nfe < inside.nfe < guided.nfe
    rows = [json.loads(line) for line in (run / "ledger.jsonl").read_text().splitlines()]
    for row, point in zip(rows[-3:], [plain, guided, inside], strict=True):
        assert row["results"]["class_accuracy"]["value"] == point.class_accuracy
        assert row["results"]["precision"]["value"] == point.precision
        assert [rule["scale"] for rule in row["sampling"].get("guidance", ())] == [3.0] * (point.scale != 1)
    with (tmp_path / "out" / "guidance.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [float(line["recall"]) for line in table] == pytest.approx([point.recall for point in points], rel=1e-5)
    assert (tmp_path / "out" / "guidance.png").stat().st_size > 1000


def test_the_weak_model_of_autoguidance_is_the_run_itself(tmp_path):
    sections = comparison(tmp_path, rules=["autoguidance(step=2)", "autoguidance(workdir='other')"]).sections()
    assert sections["autoguidance(step=2)"] == {"name": "autoguidance", "workdir": str(tmp_path), "step": 2}
    assert sections["autoguidance(workdir='other'), interval"] == {
        "name": "autoguidance",
        "workdir": "other",
        "log_snr_min": -2.0,
        "log_snr_max": 2.0,
    }


def test_accuracy_is_of_the_class_that_was_asked_for(run):
    """Images get the classes in turn, so a classifier that sees one class alone is right for a tenth."""

    class Constant:
        def probabilities(self, x):
            assert x.shape == (20, 8, 8, 1) and np.abs(x).max() <= 1
            return np.tile(np.eye(10)[3], (len(x), 1))

    [point] = compare_guidance(
        comparison(run, rules=["apg"], scales=[1.0], interval=None), Constant(), Reporter(quiet=True)
    )
    assert point.class_accuracy == 0.1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rules": ["threshold"]}, "--rules needs rules with two answers, classifier_free, apg, .*, got 'threshold'"),
        ({"rules": []}, "at least one rule and one scale"),
        ({"scales": []}, "at least one rule and one scale"),
    ],
)
def test_a_comparison_that_cannot_be_made(run, fields, message):
    with pytest.raises(ValueError, match=message):
        compare_guidance(comparison(run, **fields), Parity(), Reporter(quiet=True))


def test_flags():
    assert command.interval([]) is None and command.interval(["-3", "2.5"]) == (-3.0, 2.5)
    for texts in (["1"], ["2", "1"]):
        with pytest.raises(ValueError, match="--interval needs LOW,HIGH with LOW <= HIGH, got"):
            command.interval(texts)
    with pytest.raises(ValueError, match="--scales needs numbers separated by commas, got 1,two"):
        command.numbers("scales", ["1", "two"])


@pytest.mark.slow
def test_a_classifier_is_a_run_of_the_task_classification(run, tmp_path):
    probabilities = RunClassifier(begun(tmp_path, "classification"), batch_size=2).probabilities(
        np.zeros((3, 8, 8, 1), np.float32)
    )
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-5)
    with pytest.raises(
        ValueError, match="--classifier needs a run with task.name=classification, and the run in .* BoundDen"
    ):
        RunClassifier(run)
