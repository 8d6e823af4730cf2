"""The inputs of extractors: images of few levels in 8 bits, all other data unchanged."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from score_sde.data import DataSpec
from score_sde.evaluation import features
from score_sde.evaluation.features import in_8_bits, source_features, source_manifest, to_levels
from score_sde.evaluation.references import data_reference
from score_sde.experiment import Experiment
from score_sde.metrics.features import Extractor, get_extractor
from tests.evaluation.evaluated import digits

RNG = np.random.default_rng(0)


def experiment_of(path):
    """A model of the array in a file; nothing of it but the data is used."""
    config, source = digits(), {"name": "array", "path": str(path)}
    config.data = ConfigDict({"train": source, "eval": dict(source), "augment": {}})
    return Experiment(config)


def reference(path, folder, name="pixels"):
    experiment = experiment_of(path)
    return data_reference(experiment, "train", get_extractor(name, experiment.mesh), folder, quiet=True)


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        (DataSpec(shape=(8, 8, 3), levels=256), True),
        (DataSpec(shape=(8, 8, 4), levels=17), True),
        (DataSpec(shape=(8, 8, 1)), False),
        (DataSpec(shape=(8, 8, 1), levels=65536), False),
        (DataSpec(shape=(64, 1), levels=256), False),
    ],
)
def test_8_bits_are_for_images_of_few_levels(spec, wanted):
    x = RNG.normal(0, 30, (3, *spec.shape)).astype(np.float32)
    levels = to_levels(x, spec)
    assert in_8_bits(spec) == wanted and levels.dtype == (np.uint8 if wanted else np.float32)
    assert wanted or np.array_equal(levels, x)


def test_continuous_fields_reach_a_callable_as_they_are(tmp_path):
    """Beyond [−1, 1] too; a network of images refuses them and says why."""
    x = RNG.normal(0, 30, (40, 8, 8, 1)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    _, found = reference(tmp_path / "x.npz", tmp_path / "a", "tests.evaluation.own_features:fields")
    np.testing.assert_array_equal(found.read()[:, 1], x.reshape(40, -1).max(axis=1))
    network = Extractor("inception", "w", ("pool",), lambda images, wanted: {}, of_8_bits=True)
    message = r"'inception' need images \[b, h, w, 1 or 3\] in 0…255, got float32 \[b, 8, 8, 1\]; data without levels"
    with pytest.raises(ValueError, match=message):
        network(x)
    with pytest.raises(ValueError, match=r"in 0…255, got uint8 \[b, 8, 8, 4\]"):
        network(np.zeros((2, 8, 8, 4), np.uint8))


def test_four_channels_reach_a_callable_in_0_to_255(tmp_path):
    x = RNG.integers(0, 256, (40, 8, 8, 4), np.uint8)
    np.savez(tmp_path / "x.npz", x=x)
    _, found = reference(tmp_path / "x.npz", tmp_path / "a", "tests.evaluation.own_features:fields")
    np.testing.assert_array_equal(found.read()[:, 0], x.reshape(40, -1).min(axis=1))


@pytest.mark.parametrize("max_examples", [None, 3, 8, 9])
def test_each_example_once_in_batches_and_parts_that_do_not_divide_them(tmp_path, monkeypatch, max_examples):
    """11 examples in batches of 4, two batches a part."""
    monkeypatch.setattr(features, "LEAST_PART", 8)
    x = RNG.normal(size=(11, 8, 8, 1)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    experiment = experiment_of(tmp_path / "x.npz")
    pixels, how = get_extractor("pixels", experiment.mesh), {"batch_size": 4, "max_examples": max_examples}
    found = source_features(experiment, "train", pixels, ("pool",), tmp_path / "a", **how, quiet=True)
    number = 11 if max_examples is None else max_examples
    np.testing.assert_array_equal(found.read(), pixels(x[:number], ("pool",))["pool"])
    np.testing.assert_array_equal(found.read(features.HASHES), features.image_hashes(x[:number]))
    assert [len(part) for part in found.parts()] == [min(8, number), number - 8][: 1 + (number > 8)]


def test_a_file_that_has_changed_is_read_again(tmp_path):
    """The first rows, the number and the size are the same."""
    x = RNG.normal(size=(200, 8, 8, 1)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    before, _ = reference(tmp_path / "x.npz", tmp_path / "a")
    assert reference(tmp_path / "x.npz", tmp_path / "a")[0].digest == before.digest
    x[100] += 5  # none of the 64 rows
    np.savez(tmp_path / "x.npz", x=x)
    after, fresh = (reference(tmp_path / "x.npz", tmp_path / folder)[0] for folder in ("a", "b"))
    assert after.digest == fresh.digest != before.digest
    np.testing.assert_array_equal(after.statistics["pool"].mean, fresh.statistics["pool"].mean)


@pytest.mark.parametrize("row", [0, 101, 199])
def test_rows_from_all_over_tell_data_apart_where_no_file_does(tmp_path, monkeypatch, row):
    monkeypatch.setattr(features, "_file_of", lambda source: None)
    x, digests = np.zeros((200, 8, 8, 1), np.float32), []
    for _ in range(2):
        np.savez(tmp_path / "x.npz", x=x)
        experiment = experiment_of(tmp_path / "x.npz")
        pixels = get_extractor("pixels", experiment.mesh)
        digests.append(source_manifest(experiment, "train", pixels, ("pool",), 200, 64)["digest"])
        x[row] -= 1
    assert digests[0] != digests[1]
