"""The requirements on every source. A new source is one more line in CASES."""

import threading

import numpy as np
import PIL.Image
import pytest

from score_sde.data import (
    SOURCES,
    ArraySource,
    DataSpec,
    DensitySource,
    DigitsSource,
    EvalBatches,
    FolderSource,
    Subset,
    TFDSSource,
    TrainBatches,
    numbered_like,
)
from tests.data.tiny_tfds import image_feature, label_feature, png, prepare

RNG = np.random.default_rng(0)


def array(folder, shape, **options):
    images = RNG.integers(0, 256, (11, *shape)).astype(np.uint8)
    arrays = {"y": RNG.integers(0, 3, 11), "text": RNG.normal(size=(11, 4))}
    np.savez(folder / "data.npz", x=images, **arrays)
    return ArraySource(folder / "data.npz", label_key="y", conditions=("text",), **options)


def points(folder):
    np.save(folder / "points.npy", RNG.normal(size=(11, 3)))
    return ArraySource(folder / "points.npy")


def images(folder):
    for i in range(11):
        (folder / f"class{i % 3}").mkdir(exist_ok=True)
        PIL.Image.fromarray(RNG.integers(0, 256, (6, 4, 2)).astype(np.uint8)).save(folder / f"class{i % 3}/{i}.png")
    np.save(folder / "text.npy", RNG.normal(size=(11, 4)))
    return FolderSource(folder, labels=True, conditions={"text": "text.npy"})


def renumbered(folder):
    """The folder's classes, class0 to class2, in another order and among more."""
    names = ("class2", "class9", "class0", "class1")
    return numbered_like(images(folder), DataSpec(shape=(6, 4, 2), num_classes=4, class_names=names), "held-out data")


def tfds(folder):
    records = [{"image": png(RNG.integers(0, 256, (6, 4, 1)).astype(np.uint8)), "label": i % 3} for i in range(11)]
    prepare(folder, {"image": image_feature(6, 4, 1), "label": label_feature(3)}, {"train": records})
    return TFDSSource("tiny", data_dir=folder, label_key="label")


CASES = {
    "array, grey, not square": lambda folder: array(folder, (6, 4, 1)),
    "array, 2 channels": lambda folder: array(folder, (4, 6, 2), channels=2),
    "array, colour": lambda folder: array(folder, (5, 5, 3)),
    "array, signal": lambda folder: array(folder, (16, 1)),
    "array, points": points,
    "density": lambda folder: DensitySource("pinwheel", num_examples=11, labels=True),
    "digits": lambda folder: Subset(DigitsSource("test"), np.arange(20, 31)),
    "folder": images,
    "folder, renumbered": renumbered,
    "tfds": tfds,
    "tfds, a part in another order": lambda folder: Subset(tfds(folder), RNG.permutation(11)),
}


@pytest.fixture(params=CASES)
def source(request, tmp_path):
    return CASES[request.param](tmp_path)


def test_every_kind_in_the_catalogue_is_tested():
    assert {name.split(",")[0] for name in CASES} == set(SOURCES)


def test_examples_are_as_the_spec_says(source):
    batch = source.gather(np.array([3, 10, 0]))
    assert set(batch) == {"x", *source.spec.conditions}
    assert batch["x"].shape == (3, *source.spec.shape)
    assert batch["x"].dtype == (np.float32 if source.spec.levels is None else np.uint8)
    for name, shape in source.spec.conditions.items():
        assert batch[name].shape == (3, *shape)
        assert batch[name].dtype in (np.float32, np.int32)
    assert (source.spec.num_classes is None) == ("label" not in batch)
    if "label" in batch:
        assert batch["label"].dtype == np.int32
        assert 0 <= batch["label"].min() <= batch["label"].max() < source.spec.num_classes


def test_labels_are_those_of_the_examples(source):
    assert len(source) == 11
    if source.spec.num_classes is not None:
        labels = source.labels()
        np.testing.assert_array_equal(labels, source.gather(np.arange(11))["label"])
        assert labels.dtype == np.int32 and len(np.unique(labels)) > 1


def test_an_example_does_not_depend_on_its_neighbours(source):
    whole = source.gather(np.arange(11))
    for indices in ([7], [2, 2], [9, 0, 4]):
        for name, values in source.gather(np.array(indices)).items():
            np.testing.assert_array_equal(values, whole[name][indices])
    for name, value in source[6].items():
        np.testing.assert_array_equal(value, whole[name][6])


def test_batches_agree_with_the_source(source):
    whole = source.gather(np.arange(11))
    expected = source.spec.scale(whole.pop("x"))
    if source.spec.levels is not None:
        assert -1 <= expected.min() < expected.max() <= 1
    train = TrainBatches(source=source, batch_size=4, seed=0)
    for batch in [train[5], *EvalBatches(source=source, batch_size=4)]:
        np.testing.assert_array_equal(batch["x"], expected[batch["index"]])
        assert batch["x"].dtype == np.float32
        for name, values in whole.items():
            np.testing.assert_array_equal(batch["condition"][name], values[batch["index"]])


def test_threads_may_share_it(source):
    train = TrainBatches(source=source, batch_size=4, seed=0)
    expected = [train[step]["x"] for step in range(16)]
    alike = []

    def read():
        batches = train.iterate(0, 16, num_threads=2, depth=4)
        alike.append(all(np.array_equal(b["x"], e) for b, e in zip(batches, expected, strict=True)))

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert alike == [True] * 3
