"""References: every image counts once, files of other codes are read, and invalid comparisons raise errors."""

import json
import pathlib

import numpy as np
import pytest

from score_sde.evaluation import features, references
from score_sde.evaluation.reference_checks import check_holds, check_reference
from score_sde.evaluation.reference_distances import reference_distances
from score_sde.evaluation.references import load_reference, make_reference, statistics_of
from score_sde.experiment import Experiment
from score_sde.metrics import METRICS, FeatureStatistics, frechet_standard_error
from score_sde.metrics.features import Extractor, get_extractor
from tests.evaluation.evaluated import digits
from tests.multiprocess.launch import launch

EXPERIMENT = Experiment(digits())
PIXELS = get_extractor("pixels", EXPERIMENT.mesh)


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


def test_goes_on_after_a_kill_in_the_last_write(tmp_path, monkeypatch):
    """What the kill left half written goes with the next run."""
    rename = pathlib.Path.replace

    def die_at_the_last(path, target):
        if target == tmp_path / "a[1].npz":
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as killed:
        killed.setattr(pathlib.Path, "replace", die_at_the_last)
        killed.setattr(pathlib.Path, "unlink", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "a[1].npz", max_examples=8)
    assert len(list(tmp_path.glob("*.tmp"))) == 1
    make(tmp_path / "a[1].npz", max_examples=8)
    assert [path.name for path in tmp_path.iterdir()] == ["a[1].npz"]


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
    (warning,) = check_reference(edm, inception, EXPERIMENT)
    assert "(mu, sigma (EDM or pytorch-fid)) does not tell its resolution" in warning
    with pytest.raises(ValueError, match=r"holds features 'inception', and the samples' are 'pixels'"):
        check_reference(edm, PIXELS, EXPERIMENT)
    np.savez(tmp_path / "small.npz", mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(ValueError, match=r"has 3 features, and the InceptionV3 of FID has 2048"):
        check_reference(load_reference(tmp_path / "small.npz"), inception, EXPERIMENT)


def test_what_must_not_be_compared(tmp_path):
    made = make(tmp_path / "a.npz", split="train")
    assert check_reference(made, PIXELS, EXPERIMENT) == []
    larger = made._replace(description=made.description | {"shape": [16, 16, 1]})
    with pytest.raises(ValueError, match=r"is of images \(16, 16, 1\), and the samples are \(8, 8, 1\): resized"):
        check_reference(larger, PIXELS, EXPERIMENT)
    with pytest.raises(
        ValueError, match=r"with crop=\[8, 8\], and the samples are images with crop=None: they show other parts"
    ):
        check_reference(made._replace(description=made.description | {"crop": [8, 8]}), PIXELS, EXPERIMENT)
    other = Extractor("pixels", "other weights", ("pool",), PIXELS.compute)
    with pytest.raises(
        ValueError, match=r"other weights or preprocessing .*score_sde pixels.* there, other weights here"
    ):
        check_reference(made, other, EXPERIMENT)


def test_a_reference_of_other_data_than_the_training_data(tmp_path):
    """Another source is named with what differs; a part of the source with the share."""
    held_out, part = make(tmp_path / "a.npz", max_examples=20), make(tmp_path / "b.npz", split="train", max_examples=20)
    other, few = check_reference(held_out, PIXELS, EXPERIMENT)
    assert "(split 'eval') is not of the run's training data: source.split: 'test' there, 'train' here" in other
    assert "is of 20 of the 297 examples of its split only" in few
    (few,) = check_reference(part, PIXELS, EXPERIMENT)
    assert "is of 20 of the 1,500 examples of its split only" in few


def test_the_digest_is_that_of_the_images(tmp_path):
    """Wherever they lie, in any order; one level of one image changes it, and so do other features."""
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), np.uint8)
    changed = images.copy()
    changed[39, 0, 0, 0] ^= 1
    digests = []
    for name, x in (("a", images), ("b", images[::-1]), ("c", changed)):
        np.savez(tmp_path / f"{name}.npz", x=x)
        config = digits()
        config.data.eval = {"name": "array", "path": str(tmp_path / f"{name}.npz")}
        digests.append(make(tmp_path / f"reference_{name}.npz", Experiment(config)).digest)
    gradients = get_extractor("oriented_gradients", EXPERIMENT.mesh)
    digests.append(make(tmp_path / "d.npz", Experiment(config), gradients).digest)
    assert digests[0] == digests[1] and len(set(digests)) == 3


def test_the_digest_of_another_codes_file_is_that_of_all_its_numbers(tmp_path):
    cov = np.eye(3)
    for name in ("a", "b", "c"):
        np.savez(tmp_path / f"{name}.npz", mu=np.zeros(3), sigma=cov)
        cov = cov + np.diag([0, 0, float(name == "b")])
    a, b, c = (load_reference(tmp_path / f"{name}.npz").digest for name in "abc")
    assert a == b != c


@pytest.mark.slow
def test_two_references(tmp_path):
    """The distance, its error and the kernel distance where the features are there, in the direction asked for."""
    gradients = get_extractor("oriented_gradients", EXPERIMENT.mesh)
    test, train = (
        make(tmp_path / f"{split}.npz", extractor=gradients, split=split, keep_features=True)
        for split in ("eval", "train")
    )
    results, warnings = reference_distances(test, train)
    statistics = [FeatureStatistics.of(r.features) for r in (test, train)]
    np.testing.assert_allclose(results["fd"]["value"], statistics[0].frechet_distance(statistics[1]), rtol=1e-6)
    error = frechet_standard_error(test.features, train.statistics["pool"])
    assert results["fd"]["standard_error"] == error and results["kd"]["value"] > 0 and len(warnings) == 1
    assert "297 examples cannot tell a covariance of 512 features" in warnings[0]
    bare = train._replace(features=None)
    assert reference_distances(bare, test)[0]["fd"].keys() == {"value"}
    assert any("are of the same images" in text for text in reference_distances(test, test)[1])


def test_references_that_must_not_be_compared(tmp_path):
    one, other = make(tmp_path / "a.npz", max_examples=10), make(tmp_path / "b.npz", max_examples=20)
    changes = {
        "features": ("inception", r"a.npz holds features 'pixels', and the features of .*b.npz are 'inception'"),
        "extractor": ("new weights", r"other weights or preprocessing .*score_sde pixels.* there, new weights here"),
        "shape": ([16, 16, 1], r"is of images \(8, 8, 1\), and .*b.npz is of \(16, 16, 1\): resized"),
        "crop": ([8, 8], r"is of images with crop=None, and .*b.npz is of images with crop=\[8, 8\]"),
    }
    for name, (value, message) in changes.items():
        with pytest.raises(ValueError, match=message):
            reference_distances(one, other._replace(description=other.description | {name: value}))


@pytest.mark.slow
def test_the_commands(tmp_path):
    """Two references, and the distance between them; EDM's file has no more than a mean and a covariance."""
    names = [str(tmp_path / f"{split}.npz") for split in ("eval", "train")]
    for split, name in zip(("eval", "train"), names, strict=True):
        flags = ["--config=configs/quickstart.py", f"--split={split}", f"--output={name}", "--features=pixels"]
        (made,) = launch("experiments.reference", flags, number=1, devices=1)
    assert "1500 images of train, digest" in made.stdout
    (compared,) = launch("experiments.reference", [f"--compare={','.join(names)}"], number=1, devices=1)
    first, second, distance = compared.stdout.splitlines()[:3]
    assert "297 images" in first and "1,500 images" in second
    wanted = load_reference(tmp_path / "eval.npz").statistics["pool"]
    wanted = wanted.frechet_distance(load_reference(tmp_path / "train.npz").statistics["pool"])
    assert distance.split()[0] == "fd" and abs(float(distance.split()[1]) / wanted - 1) < 1e-3


def test_files_that_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No reference at .*score-sde reference --config=… --output="):
        load_reference(tmp_path / "none.npz")
    np.savez(tmp_path / "other.npz", images=np.zeros(3))
    with pytest.raises(ValueError, match=r"needs our arrays or mu and sigma .*got \['images'\]"):
        load_reference(tmp_path / "other.npz")
    np.savez(tmp_path / "code.npz", mu=np.array([{"a": 1}], object), sigma=np.eye(1))
    with pytest.raises(ValueError, match=r"code.npz cannot be read as plain arrays .*nothing in a file is executed"):
        load_reference(tmp_path / "code.npz")
    whole = (tmp_path / "other.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    (tmp_path / "text.npz").write_text("not found")
    for name in ("cut", "array", "text"):
        with pytest.raises(ValueError, match=rf"{name}.npz cannot be read as plain arrays .*copy or make it again"):
            load_reference(tmp_path / f"{name}.npz")
    with pytest.raises(ValueError, match=r"--output needs a name that ends in .npz, got .*a.json"):
        make(tmp_path / "a.json")
    with pytest.raises(ValueError, match="--split needs train or eval, got 'test'"):
        make(tmp_path / "a.npz", split="test")


def test_a_description_of_another_code(tmp_path):
    """Beside mu and sigma it is passed over; alone it is no reference; ours without its arrays is told what it lacks."""
    arrays = {"mu": np.zeros(3), "sigma": np.eye(3)}
    for text in ("FFHQ at 64", json.dumps({"dataset": "ffhq"}), json.dumps([1]), json.dumps({"format": "jpg"})):
        np.savez(tmp_path / "a.npz", description=np.array(text), **arrays)
        assert load_reference(tmp_path / "a.npz").description["format"].startswith("mu, sigma")
        np.savez(tmp_path / "b.npz", description=np.array(text))
        with pytest.raises(ValueError, match=r"needs our arrays or mu and sigma .*got \['description'\]"):
            load_reference(tmp_path / "b.npz")
    make(tmp_path / "c.npz", max_examples=5)
    ours = dict(np.load(tmp_path / "c.npz"))
    np.savez(tmp_path / "d.npz", **{name: value for name, value in ours.items() if name != "pool_cov"})
    with pytest.raises(ValueError, match=r"d.npz is no whole reference, it lacks \['pool_cov'\]; make it again with"):
        load_reference(tmp_path / "d.npz")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"mu": np.zeros(2048), "sigma": np.eye(100)},
            r"of its 'pool' features, got shapes \(2048,\) and \(100, 100\)",
        ),
        ({"mu": np.zeros(3), "sigma": np.ones((3, 2))}, r"got shapes \(3,\) and \(3, 2\); make it again"),
        (
            {"mu": np.array([0.0, np.nan]), "sigma": np.eye(2)},
            r"numbers that are not finite, in the statistics of 'pool'",
        ),
        (
            {"mu": np.zeros(2), "sigma": np.diag([1.0, np.inf])},
            r"numbers that are not finite, in the statistics of 'pool'",
        ),
    ],
)
def test_statistics_of_no_use(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load_reference(tmp_path / "a.npz")


def test_features_that_the_statistics_are_not_of(tmp_path):
    make(tmp_path / "a.npz", max_examples=5, keep_features=True)
    ours = dict(np.load(tmp_path / "a.npz"))
    for rows, message in (
        (ours["features"][:4], r"got shape \(4, 64\), 0 of"),
        (ours["features"] * np.nan, ".*, 320 of the num"),
    ):
        np.savez(tmp_path / "b.npz", **ours | {"features": rows})
        with pytest.raises(ValueError, match=rf"needs finite features \[5, 64\] beside its statistics, {message}"):
            load_reference(tmp_path / "b.npz")


def test_what_a_reference_does_not_hold_is_told_before_samples_are_drawn(tmp_path):
    np.savez(tmp_path / "a.npz", mu=np.zeros(2), sigma=-np.eye(2))
    bare = load_reference(tmp_path / "a.npz")
    for metrics, message in (
        (["fid"], r"holds no covariance: .*negative eigenvalue.* Make the right one"),
        (["kid"], r"kid needs the features of the reference, and .*a.npz holds only .*--keep_features"),
        (["prdc"], r"prdc needs the features of the reference"),
        (["sfid"], r"sfid needs spatial statistics, which .*a.npz does not have"),
    ):
        with pytest.raises(ValueError, match=message):
            check_holds(bare, [METRICS[name]() for name in metrics])
    check_holds(bare, [METRICS["is"]()])


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
