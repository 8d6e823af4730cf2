"""Classes by name, in the spec of every source."""

import unicodedata

import numpy as np
import pytest

from score_sde.data import ArraySource, DataSpec, DensitySource, DigitsSource, FolderSource, TFDSSource
from tests.data.test_folder import noise, write
from tests.data.tiny_tfds import image_feature, label_feature, png, prepare, tensor_feature

COMPOSED, DECOMPOSED = unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")


def array(folder, labels, **options):
    np.savez(folder / "data.npz", x=np.zeros((len(labels), 2)), y=labels)
    return ArraySource(folder / "data.npz", label_key="y", **options)


def labels(source):
    return source.gather(np.arange(len(source)))["label"].tolist()


@pytest.mark.parametrize("kind", ["U", "S"])
def test_labels_may_be_texts(tmp_path, kind):
    source = array(tmp_path, np.array(["horse", "cat", "horse"]).astype(kind))
    assert source.spec.class_names == ("cat", "horse") and source.spec.num_classes == 2
    assert labels(source) == [1, 0, 1]
    assert [source.spec.class_name(number) for number in (0, 1)] == ["cat", "horse"]


def test_class_names_number_texts_and_name_integers(tmp_path):
    names = ("horse", "dog", "cat")
    source = array(tmp_path, np.array(["horse", "cat"]), class_names=names)
    assert source.spec.class_names == names and labels(source) == [0, 2]
    source = array(tmp_path, np.array([1, 0]), class_names=names)
    assert source.spec.class_names == names and source.spec.num_classes == 3 and labels(source) == [1, 0]
    with pytest.raises(
        ValueError,
        match=r"Labels 'y' has the class 'hors', which is not among the 3 known classes: 'horse', 'dog', 'cat'",
    ):
        array(tmp_path, np.array(["hors"]), class_names=names)
    with pytest.raises(ValueError, match="Labels 'y' need a name for each class .*, got 3 names and the label 3"):
        array(tmp_path, np.array([3]), class_names=names)
    with pytest.raises(ValueError, match="num_classes=4 needs as many class names, got 3; leave it out"):
        array(tmp_path, np.array([1]), class_names=names, num_classes=4)
    with pytest.raises(ValueError, match="num_classes and class_names need labels, got label_key=None; set label_key"):
        ArraySource(tmp_path / "data.npz", class_names=names)


def test_texts_are_utf_8(tmp_path):
    with pytest.raises(ValueError, match=r"Labels 'y' need texts in UTF-8, got b'.xff'; decode them first"):
        array(tmp_path, np.array([b"\xff", b"a"]))


def test_integers_without_names_keep_their_numbers(tmp_path):
    spec = array(tmp_path, np.array([4, 0])).spec
    assert spec.class_names is None and spec.num_classes == 5 and spec.class_name(4) == "4"


def test_a_name_is_the_same_composed_and_decomposed(tmp_path):
    source = array(tmp_path, np.array([COMPOSED, DECOMPOSED, "a"]))
    assert source.spec.class_names == ("a", COMPOSED) and labels(source) == [1, 1, 0]


def test_every_source_with_labels_has_its_names(tmp_path):
    write(tmp_path / "images" / DECOMPOSED / "1.png", noise(4, 4, 1))
    write(tmp_path / "images" / "b" / "1.png", noise(4, 4, 1))
    assert FolderSource(tmp_path / "images", labels=True).spec.class_names == ("b", COMPOSED)
    assert FolderSource(tmp_path / "images").spec.class_names is None
    assert DigitsSource("test").spec.class_names == tuple("0123456789")
    assert DigitsSource("test", labels=False).spec.class_names is None
    assert DensitySource("moons", labels=True).spec.class_names is None
    record = {"image": png(noise(4, 4, 1)), "label": 1, "angle": 0.5}
    features = {"image": image_feature(4, 4, 1), "label": label_feature(2), "angle": tensor_feature("float32")}
    prepare(tmp_path, features, {"train": [record]})
    assert TFDSSource("tiny", data_dir=tmp_path, label_key="label").spec.class_names == ("0", "1")
    with pytest.raises(
        ValueError, match=r"label_key needs a feature of tiny that holds a class .*got 'angle', a Tensor"
    ):
        TFDSSource("tiny", data_dir=tmp_path, label_key="angle")
    (tmp_path / "tiny" / "1.0.0" / "label.labels.txt").write_text("horse\ncat\n")
    assert TFDSSource("tiny", data_dir=tmp_path, label_key="label").spec.class_names == ("horse", "cat")


@pytest.mark.parametrize(("names", "message"), [(("a",), "got 1 names"), (("a", "a"), "got 2 names, 'a' more than")])
def test_names_that_do_not_fit_are_refused(names, message):
    with pytest.raises(ValueError, match=f"DataSpec needs a different name for each of 2 classes, {message}"):
        DataSpec(shape=(2,), num_classes=2, class_names=names)
