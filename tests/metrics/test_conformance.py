"""What every metric of the catalogue keeps: its names, its errors, its needs, and which way is better."""

import json
import pathlib

import numpy as np
import pytest

from score_sde import metrics
from score_sde.evaluation.metric_names import chosen_metrics, computed, metric_of
from score_sde.evaluation.reference_checks import check_holds
from score_sde.likelihood import BitsPerDim
from score_sde.metrics import FeatureStatistics, Inputs, Model, Needs, Reference
from score_sde.objectives.loss_by_noise_level import LossByNoiseLevel
from tests.conformance import METRICS

REAL, HELD_OUT, FRESH = (np.random.default_rng(i).normal(size=(400, 6)).astype(np.float32) for i in range(3))
OF_SAMPLES = [name for name, (metric, _) in METRICS.items() if metric.needs.outputs]
BY_ORDER = ("kid", "is", "fd_infinity")  # they take subsets or splits of the samples by their places


class StandIn(Model):
    """A model whose numbers are all `error`."""

    experiment, params, num_held_out = None, {}, 7

    def __init__(self, error):
        self.error = error

    def noise_levels(self):
        levels = np.full(3, self.error, np.float32)
        return LossByNoiseLevel(np.ones(3, np.float32), np.zeros(3, np.float32), levels, levels / 9, 7)

    def bits_per_dim(self):
        interval = (self.error - 0.2, self.error + 0.2)
        return BitsPerDim(self.error, 0.1, interval, 0.95, None, None, np.full(7, self.error), 7, 30.0)

    def density(self):
        return {"kl": self.error, "kl_standard_error": 0.1, "samples_exact": -2.0}


def given(pool=FRESH, logits=None, error=1.0, extractor="pixels"):
    """Everything that a metric can need. The samples follow the reference."""
    references = {
        split: Reference(f"real {split}", f"digest of {split}", statistics(rows), {}, rows)
        for split, rows in (("train", REAL), ("eval", HELD_OUT))
    }
    features = {"pool": pool, "spatial": pool[:, :4], "logits": pool if logits is None else logits}
    return Inputs(features, references["train"], extractor, 0, 100, references.__getitem__, StandIn(error))


def statistics(rows):
    return {"pool": FeatureStatistics.of(rows), "spatial": FeatureStatistics.of(rows[:, :4])}


def values(name, inputs):
    return {result: found["value"] for result, found in computed(name, METRICS[name][0], inputs).items()}


def test_the_list_is_the_catalogue():
    assert {name: type(make()) for name, make in metrics.METRICS.items()} == {
        name: type(metric) for name, (metric, _) in METRICS.items()
    }
    assert all(metric.name == name for name, (metric, _) in METRICS.items())
    assert list(chosen_metrics(["fd", "bpd", "precision", "fid"])) == ["fid", "bits_per_dim", "prdc"]


def test_the_document_has_a_row_for_each():
    text = (pathlib.Path(__file__).parent.parent.parent / "docs" / "evaluation.md").read_text(encoding="utf-8")
    table = text.partition("## Metrics\n")[2].partition("\n## ")[0]
    assert [name for name in METRICS if f"\n| `{name}` | " not in table] == []


@pytest.mark.parametrize("extractor", ["inception", "pixels"])
@pytest.mark.parametrize("name", METRICS)
def test_its_numbers_have_its_names_and_its_error(name, extractor):
    metric, _ = METRICS[name]
    found = computed(name, metric, given(extractor=extractor))
    assert found and found.keys() <= set(metric.results) and json.loads(json.dumps(found)).keys() == found.keys()
    for result, values in found.items():
        assert metric_of(result).name == name and np.isfinite(values["value"])
        assert not metric.error or 0 < values[metric.error] < np.inf
        assert {"train_digest": "digest of train"}.items() <= values.items() or not metric.needs.splits


@pytest.mark.parametrize("name", [name for name, (_, exact) in METRICS.items() if exact])
def test_the_images_of_the_reference_themselves(name):
    assert values(name, given(REAL)) == pytest.approx(METRICS[name][1], abs=1e-10)


def test_inception_scores_that_are_known():
    sure = 50 * np.eye(4, dtype=np.float32)[np.arange(400) % 4]
    assert values("is", given(logits=sure)) == pytest.approx({"classifier_score": 4.0})
    assert values("is", given(logits=0 * sure)) == pytest.approx({"classifier_score": 1.0})


@pytest.mark.parametrize(("name", "of_each"), [("fid", 0.25), ("fd_infinity", 0.25), ("sfid", 0.25)])
def test_a_known_shift(name, of_each):
    """Gaussians of one covariance, a known distance apart: the square of the shift, over all features."""
    many = np.random.default_rng(5).normal(0.5, 1.0, (20_000, 6)).astype(np.float32)
    exact = {
        "pool": FeatureStatistics(0, np.zeros(6), np.eye(6)),
        "spatial": FeatureStatistics(0, np.zeros(4), np.eye(4)),
    }
    (found,) = computed(name, METRICS[name][0], given(many)._replace(reference=Reference("", "", exact, {}))).values()
    wanted = of_each * (4 if name == "sfid" else 6)
    assert abs(found["value"] - wanted) < 5 * max(found["standard_error"], wanted / np.sqrt(len(many)))


@pytest.mark.parametrize("name", OF_SAMPLES)
def test_the_order_of_samples_changes_nothing(name):
    metric, _ = METRICS[name]
    order = np.random.default_rng(3).permutation(len(FRESH))
    here, there = (computed(name, metric, given(pool)) for pool in (FRESH, FRESH[order]))
    for result, found in here.items():
        reach = 5 * found[metric.error] if name in BY_ORDER else 1e-10
        assert abs(found["value"] - there[result]["value"]) <= reach


@pytest.mark.parametrize("name", [name for name, (metric, _) in METRICS.items() if metric.better])
def test_worse_samples_have_worse_numbers(name):
    sign = {"lower": 1, "higher": -1}[METRICS[name][0].better]
    good, bad = values(name, given()), values(name, given(FRESH + 2, 0 * FRESH, error=2.0))
    assert all(sign * (bad[result] - good[result]) > 0 for result in good)


@pytest.mark.parametrize("name", METRICS)
def test_it_reads_nothing_that_it_does_not_name(name):
    with pytest.raises(ValueError, match=r"Needs\(.*, got "):
        METRICS[name][0].compute(given().only(Needs(outputs=())))


@pytest.mark.parametrize("name", OF_SAMPLES)
def test_a_reference_without_what_it_needs_is_refused(name):
    metric, _ = METRICS[name]
    full, needs = given().reference, metric.needs
    check_holds(full, [metric])
    lacking = [full._replace(statistics={"pool": 0} if output != "pool" else {}) for output in needs.statistics]
    for reference in lacking + [full._replace(features=None)] * needs.rows:
        with pytest.raises(ValueError, match=rf"{name} needs .*real train"):
            check_holds(reference, [metric])


@pytest.mark.parametrize("name", OF_SAMPLES)
def test_fewer_samples_than_it_needs_are_refused(name):
    metric, _ = METRICS[name]
    least = metric.least_samples
    with pytest.raises(
        ValueError, match=f"{name} needs at least {least} samples, got {least - 1}; raise --num_samples"
    ):
        metric.check(least - 1)
    few = given(FRESH[: 4 * 6 if name == "fd_infinity" else least])
    metric.check(len(few.pool), few.reference)
    assert all(np.isfinite(value) for value in values(name, few).values())


OF_FEATURES = ("features", "extractor_digest", "num_samples")
OF_HELD_OUT = ("first_examples", "examples", "bin_width", "data.shape", "data.crop")
OF_HELD_OUT = (*(f"held_out.{field}" for field in OF_HELD_OUT), "result.num_examples")


@pytest.mark.parametrize(
    ("names", "fields"),
    [
        (("fid", "fd", "sfid", "sfd", "kid", "kd", "fid_infinity", "fd_infinity"), (*OF_FEATURES, "reference.digest")),
        (("precision", "recall", "prdc_density", "coverage"), (*OF_FEATURES, "reference.digest")),
        (("inception_score", "classifier_score"), OF_FEATURES),
        (("memorization",), (*OF_FEATURES, "result.train_digest", "result.held_out_digest")),
        (("noise_levels",), (*OF_HELD_OUT, "result.log_snr")),
        (("bits_per_dim", "density_kl"), (*OF_HELD_OUT, "likelihood")),
    ],
)
def test_rows_of_every_age_are_compared_by_the_same_fields(names, fields):
    """The names and the fields of the ledgers that exist."""
    for name in names:
        assert metric_of(name).compared == fields
