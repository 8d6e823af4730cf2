"""The errors of an evaluation before it draws, the files that it keeps, and the facts in its row."""

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from experiments.results import run_evaluation
from score_sde.evaluation.ledger import read_rows
from score_sde.evaluation.references import make_reference
from score_sde.evaluation.request import Evaluation
from score_sde.evaluation.row_comparison import differences
from score_sde.metrics import FeatureStatistics
from score_sde.run_config import from_workdir
from score_sde.runs import pick_params, read_state
from score_sde.trained import load
from tests.evaluation.evaluated import digits, points, save
from tests.evaluation.own_features import meanings

GRADIENTS = Evaluation(("fid",), num_samples=20, batch_size=8, features="oriented_gradients")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A model of digits."""
    folder = tmp_path_factory.mktemp("digits")
    save(digits(), folder)
    return folder


def evaluate(workdir, evaluation=GRADIENTS, overrides=()):
    return run_evaluation(load(workdir, average=evaluation.ema, overrides=overrides), evaluation, quiet=True)


@pytest.mark.slow
def test_images_that_are_kept_stay_without_their_features(tmp_path):
    save(digits(), tmp_path)
    for evaluation in (GRADIENTS._replace(keep_samples="png"), GRADIENTS):  # the second finds the images of the first
        row = evaluate(tmp_path, evaluation._replace(keep_features=False))
        (folder,) = (tmp_path / "evaluations").iterdir()
        assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "samples_png"]
        assert len(list((folder / "samples_png").rglob("*.png"))) == 20 and row["images_drawn"] == 20
    assert np.asarray(Image.open(next((folder / "samples_png").rglob("*.png")))).shape == (8, 8)


def test_the_row_tells_what_it_is_compared_with(workdir, tmp_path, capsys):
    """A part of the held-out digits, in a file: both are said, in the row and aloud."""
    experiment, path = from_workdir(workdir), tmp_path / "few.npz"
    extractor = evaluate_extractor(experiment)
    make_reference(experiment, "eval", extractor, path, max_examples=50, quiet=True)
    row = evaluate(workdir, GRADIENTS._replace(reference=str(path)))
    about = {name: row["reference"][name] for name in ("split", "crop", "count")}
    assert about == {"split": "eval", "crop": None, "count": 50} and row["reference"]["source"]["split"] == "test"
    said = capsys.readouterr().out
    for text in ("is not of the run's training data: source.split: 'test' there", "is of 50 of the 297 examples"):
        assert any(text in warning for warning in row["warnings"]) and text in said
    plain = evaluate(workdir)
    assert plain["reference"]["source"]["split"] == "train" and not any("data" in text for text in plain["warnings"])


def evaluate_extractor(experiment):
    from score_sde.metrics.features import get_extractor

    return get_extractor("oriented_gradients", experiment.mesh)


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"metrics": ("kid",), "num_samples": 3},
            "kid needs at least 4 samples, got 3; raise --num_samples to at least 4",
        ),
        (
            {"metrics": ("prdc",), "num_samples": 5},
            "prdc needs at least 6 samples, got 5; raise --num_samples to at least 6",
        ),
        ({"metrics": ("fd_infinity",), "num_samples": 19}, "raise --num_samples to at least 20"),
        ({"metrics": ("kid",), "reference": "bare.npz"}, "kid needs the features of the reference.*--keep_features"),
        ({"metrics": ("fid",), "reference": "cut.npz"}, "cannot be read as plain arrays"),
    ],
)
def test_what_cannot_work_is_refused_before_a_sample_is_drawn(workdir, tmp_path, monkeypatch, change, message):
    def drawn(*arguments):
        raise AssertionError("drawn")

    experiment = from_workdir(workdir)
    monkeypatch.setattr(type(experiment.generator), "batch", drawn)
    make_reference(experiment, "eval", evaluate_extractor(experiment), tmp_path / "bare.npz", quiet=True)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "bare.npz").read_bytes()[:1000])
    if "reference" in change:
        change = change | {"reference": str(tmp_path / change["reference"])}
    with pytest.raises(ValueError, match=message):
        evaluate(workdir, GRADIENTS._replace(**change))


def test_embeddings_of_text_through_a_callable(tmp_path):
    """The data are rows of floats, far beyond [−1, 1]; the number is that of the callable's features of them as they are."""
    embeddings = np.random.default_rng(0).normal(3, 20, (200, 16)).astype(np.float32)
    np.savez(tmp_path / "sentences.npz", x=embeddings)
    config, source = points(), {"name": "array", "path": str(tmp_path / "sentences.npz")}
    config.data, config.mesh.num_devices = ConfigDict({"train": source, "eval": dict(source), "augment": {}}), 1
    save(config, tmp_path)
    evaluation = Evaluation(("fid", "kid", "prdc"), 40, (0,), 16, features="tests.evaluation.own_features:meanings")
    row = evaluate(tmp_path, evaluation)
    assert {"fd", "kd", "precision", "recall", "prdc_density", "coverage"} == row["results"].keys()
    experiment = from_workdir(tmp_path)
    x = experiment.generator(
        experiment.run_key("sample"), pick_params(read_state(experiment, tmp_path), None), 40, 16
    ).x
    wanted = FeatureStatistics.of(meanings(x)).frechet_distance(FeatureStatistics.of(meanings(embeddings)))
    np.testing.assert_allclose(row["results"]["fd"]["value"], wanted, rtol=1e-4)
    assert row["reference"]["source"]["path"] == "sentences.npz"  # and not where it lies here


@pytest.mark.slow
def test_numbers_of_the_model_tell_their_data(tmp_path):
    """Two rows of one model compare; with other data, part of them or another tolerance they do not."""
    save(points(), tmp_path)
    models = Evaluation(("noise_levels", "bpd"), max_examples=20)
    evaluate(tmp_path, models, ["mesh.num_devices=1"])
    row = evaluate(tmp_path, models._replace(max_examples=30), ["mesh.num_devices=1", "likelihood.rtol=1e-3"])
    levels = row["results"]["noise_levels"]
    assert len(levels["standard_errors"]) == len(levels["log_snr"]) and levels["num_examples"] == 30
    np.testing.assert_allclose(levels["standard_error"], np.mean(levels["standard_errors"]))
    assert row["held_out"]["examples"] == 120 and row["likelihood"]["rtol"] == 1e-3
    lines = {text.split(":")[0]: text for text in differences(*read_rows([tmp_path])[0])}
    assert lines["noise_levels"].endswith("(not comparable: result.num_examples differ)")
    assert lines["bits_per_dim"].endswith("(not comparable: likelihood.rtol, result.num_examples differ)")
