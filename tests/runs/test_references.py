"""References: every image once; files of other codes; what must not be compared is refused."""

import json

import numpy as np
import pytest

from score_sde.experiment import Experiment
from score_sde.metrics import FeatureStatistics
from score_sde.runs import features, references
from score_sde.runs.extractors import Extractor, get_extractor
from score_sde.runs.references import check_reference, load_reference, make_reference, statistics_of
from tests.runs.evaluated import digits

EXPERIMENT = Experiment(digits())
PIXELS = get_extractor("pixels", EXPERIMENT.mesh)
SHAPE = (8, 8, 1)


def make(path, experiment=EXPERIMENT, extractor=PIXELS, split="eval", **options):
    return make_reference(experiment, split, extractor, path, quiet=True, **options)


def counting(stop_at=None):
    """Pixels that count how many images they have seen, and are killed once."""
    seen = []

    def compute(images, wanted):
        if len(seen) == stop_at:
            seen.append(0)
            raise KeyboardInterrupt
        seen.append(len(images))
        return PIXELS.compute(images, wanted)

    return Extractor("pixels", PIXELS.digest, ("pool",), compute), seen


def test_statistics_of_parts_of_any_size(monkeypatch):
    monkeypatch.setattr(references, "BLOCK", 4)
    rows = np.random.default_rng(0).normal(3.0, 2.0, (30, 3)).astype(np.float32)
    for cuts in ([1, 2, 9, 10], [29], [8, 16, 24], []):
        found, whole = statistics_of(iter(np.split(rows, cuts))), FeatureStatistics.of(rows)
        assert found.count == 30
        np.testing.assert_allclose(found.mean, whole.mean, rtol=1e-12)
        np.testing.assert_allclose(found.cov, whole.cov, rtol=1e-12)


def test_every_image_once(tmp_path):
    """The statistics of the 297 test digits, whatever the batch; nothing but the file stays."""
    made = make(tmp_path / "a.npz", batch_size=50)
    x = EXPERIMENT.spec.scale(EXPERIMENT.eval_source.gather(np.arange(297))["x"]).reshape(297, -1)
    rounded = (np.rint((x.astype(np.float64) + 1) * 127.5) / 127.5 - 1).astype(np.float32).astype(np.float64)
    np.testing.assert_allclose(made.statistics["pool"].mean, rounded.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(made.statistics["pool"].cov, np.cov(rounded.T), atol=1e-12)
    assert made.num_examples == 297 and [path.name for path in tmp_path.iterdir()] == ["a.npz"]
    read = load_reference(tmp_path / "a.npz")
    assert read.digest == made.digest == make(tmp_path / "b.npz", batch_size=64).digest
    assert np.array_equal(read.statistics["pool"].cov, made.statistics["pool"].cov) and read.features is None
    kept = load_reference(tmp_path / "c.npz") if make(tmp_path / "c.npz", keep_features=True) else None
    np.testing.assert_allclose(kept.features, rounded, atol=1e-6)
    first = make(tmp_path / "d.npz", max_examples=20, batch_size=64)
    assert first.num_examples == 20 and first.digest != made.digest
    np.testing.assert_allclose(first.statistics["pool"].mean, rounded[:20].mean(axis=0), atol=1e-12)


def test_goes_on_after_a_kill(tmp_path, monkeypatch):
    """In parts of two batches, the first of which is there."""
    monkeypatch.setattr(features, "LEAST_PART", 130)
    extractor, seen = counting(stop_at=3)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "a.npz", extractor=extractor, batch_size=64)
    assert not (tmp_path / "a.npz").exists()
    made = make(tmp_path / "a.npz", extractor=extractor, batch_size=64)
    assert seen == [64, 64, 64, 0, 64, 64, 41]
    assert np.array_equal(made.statistics["pool"].cov, make(tmp_path / "b.npz").statistics["pool"].cov)


def test_files_of_other_codes(tmp_path):
    mean, cov = np.arange(2048.0), np.eye(2048)
    np.savez(tmp_path / "edm.npz", mu=mean, sigma=cov)
    np.savez(tmp_path / "adm.npz", mu=mean, sigma=cov, mu_s=np.ones(5), sigma_s=2 * np.eye(5), arr_0=np.zeros((2, 2)))
    edm, adm = load_reference(tmp_path / "edm.npz"), load_reference(tmp_path / "adm.npz")
    assert (
        edm.num_examples is None
        and np.array_equal(edm.statistics["pool"].mean, mean)
        and list(edm.statistics) == ["pool"]
    )
    assert np.array_equal(adm.statistics["spatial"].cov, 2 * np.eye(5)) and edm.digest != adm.digest
    inception = Extractor("inception", "w", ("pool",), lambda images, wanted: {})
    (warning,) = check_reference(edm, inception, (32, 32, 3))
    assert "(mu, sigma (EDM or pytorch-fid)) does not tell its resolution" in warning
    with pytest.raises(ValueError, match=r"holds features 'inception', and the samples' are 'pixels'"):
        check_reference(edm, PIXELS, SHAPE)
    np.savez(tmp_path / "small.npz", mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(ValueError, match=r"has 3 features, and the InceptionV3 of FID has 2048"):
        check_reference(load_reference(tmp_path / "small.npz"), inception, (32, 32, 3))


def test_what_must_not_be_compared(tmp_path):
    made = make(tmp_path / "a.npz", max_examples=10)
    assert check_reference(made, PIXELS, SHAPE) == []
    with pytest.raises(ValueError, match=r"is of images \(8, 8, 1\), and the samples are \(16, 16, 1\): resized"):
        check_reference(made, PIXELS, (16, 16, 1))
    other = Extractor("pixels", "other weights", ("pool",), PIXELS.compute)
    with pytest.raises(
        ValueError, match=r"other weights or preprocessing .*score_sde pixels.* there, other weights here"
    ):
        check_reference(made, other, SHAPE)


def test_files_that_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No reference at .*experiments.reference --config=… --output="):
        load_reference(tmp_path / "none.npz")
    np.savez(tmp_path / "other.npz", images=np.zeros(3))
    with pytest.raises(ValueError, match=r"needs our arrays or mu and sigma .*got \['images'\]"):
        load_reference(tmp_path / "other.npz")
    np.savez(tmp_path / "code.npz", mu=np.array([{"a": 1}], object), sigma=np.eye(1))
    with pytest.raises(ValueError, match=r"is no .npz of plain arrays .*nothing in a file is executed"):
        load_reference(tmp_path / "code.npz")
    with pytest.raises(ValueError, match=r"--output needs a name that ends in .npz, got .*a.json"):
        make(tmp_path / "a.json")
    with pytest.raises(ValueError, match="--split needs train or eval, got 'test'"):
        make(tmp_path / "a.npz", split="test")


def test_flips_change_nothing(tmp_path):
    """Augmentation is not the data's."""
    config = digits()
    config.data.augment = {"random_flip": True, "dequantize": True}
    plain, flipped = (
        make(tmp_path / "a.npz", split="train"),
        make(tmp_path / "b.npz", Experiment(config), split="train"),
    )
    assert plain.digest == flipped.digest and plain.num_examples == 1500
    assert np.array_equal(plain.statistics["pool"].cov, flipped.statistics["pool"].cov)
    assert json.loads(json.dumps(plain.description))["split"] == "train"
