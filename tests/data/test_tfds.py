import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from score_sde.data import EvalBatches, TFDSSource, TrainBatches
from tests.data.tiny_tfds import image_feature, label_feature, png, prepare, tensor_feature

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Twelve images 4×6×3 with labels, embeddings and an unlabelled split, in a TFDS folder."""
    data_dir = tmp_path_factory.mktemp("tfds")
    images = RNG.integers(0, 256, (12, 4, 6, 3)).astype(np.uint8)
    embeddings = RNG.normal(size=(12, 5)).astype(np.float32)
    records = [
        {"image": png(images[i]), "label": i % 4, "embedding": embeddings[i], "points": images[i, :2, 0, :2] / 8}
        for i in range(12)
    ]
    features = {
        "image": image_feature(4, 6, 3),
        "label": label_feature(4),
        "embedding": tensor_feature("float32", 5),
        "points": tensor_feature("float32", 2, 2),
    }
    splits = {"train": records[:9], "test": records[9:], "unlabelled": [{**records[0], "label": -1}]}
    prepare(data_dir, features, splits)
    return data_dir, images, embeddings


@pytest.mark.parametrize("cache_bytes", [0, 2**20])
def test_images_labels_and_conditions_are_read_exactly(tiny, cache_bytes):
    data_dir, images, embeddings = tiny
    source = TFDSSource(
        "tiny", data_dir=data_dir, label_key="label", conditions=("embedding",), cache_bytes=cache_bytes
    )
    assert (len(source), source.spec.shape, source.spec.levels) == (9, (4, 6, 3), 256)
    assert (source.spec.num_classes, source.spec.conditions) == (4, {"label": (), "embedding": (5,)})
    for indices in ([8, 0, 3, 0], [1, 8]):
        batch = source.gather(np.array(indices))
        np.testing.assert_array_equal(batch["x"], images[indices])
        np.testing.assert_array_equal(batch["label"], np.array(indices) % 4)
        np.testing.assert_array_equal(batch["embedding"], embeddings[indices])
    batch = TrainBatches(source=source, batch_size=5, seed=0)[3]
    np.testing.assert_allclose(batch["x"], images[batch["index"]] / 127.5 - 1, atol=1e-6)


def test_splits_and_slices_select_examples(tiny):
    data_dir, images, _ = tiny
    test = TFDSSource("tiny", "test", data_dir=data_dir)
    assert test.spec.conditions == {}
    (batch,) = EvalBatches(source=test, batch_size=4)
    np.testing.assert_array_equal(test.spec.quantize(batch["x"]), images[[9, 10, 11, 11]])
    assert batch["is_real"].tolist() == [True, True, True, False]
    part = TFDSSource("tiny:1.0.0", "train[3:5]", data_dir=str(data_dir))
    np.testing.assert_array_equal(part.gather(np.arange(2))["x"], images[3:5])


def test_arrays_that_are_no_images_can_be_the_data(tiny):
    data_dir, images, _ = tiny
    source = TFDSSource("tiny", data_dir=data_dir, image_key="points")
    assert (source.spec.shape, source.spec.levels) == ((2, 2), None)
    np.testing.assert_allclose(source.gather(np.array([5]))["x"][0], images[5, :2, 0, :2] / 8)


def test_images_are_resized_and_converted_where_asked(tiny):
    source = TFDSSource("tiny", data_dir=tiny[0], image_size=2, channels=1)
    assert source.spec.shape == (2, 2, 1)


def test_images_of_different_sizes_need_image_size(tmp_path):
    records = [{"image": png(RNG.integers(0, 256, (4, size, 1)).astype(np.uint8))} for size in (4, 7)]
    prepare(tmp_path, {"image": image_feature(None, None, 1)}, {"train": records})
    with pytest.raises(ValueError, match=r"tiny \(train\) holds images of different sizes; set image_size"):
        TFDSSource("tiny", data_dir=tmp_path)
    assert TFDSSource("tiny", data_dir=tmp_path, image_size=(4, 3)).gather(np.arange(2))["x"].shape == (2, 4, 3, 1)


def test_an_unprepared_data_set_is_an_error_that_names_folder_and_command(tmp_path, monkeypatch):
    """At once: a download that is tried without network takes minutes."""
    asked = []

    def no_network(*address, **_):
        asked.append(address)
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    message = (
        rf"TFDS data set 'cifar10' is not prepared in data_dir {tmp_path}; where there is network and TensorFlow, run "
        rf"`tfds build cifar10 --file_format=array_record --data_dir={tmp_path}` once, or set download=True"
    )
    with pytest.raises(FileNotFoundError, match=message):
        TFDSSource("cifar10", data_dir=tmp_path)
    assert not asked


def test_a_misspelt_name_is_answered_with_the_closest(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"\(the catalogue has no such name; the closest: cifar10[,)]"):
        TFDSSource("cifar_10", data_dir=tmp_path)


def test_downloading_without_tensorflow_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"Preparing 'mnist' needs TensorFlow .*; `pip install tensorflow`"):
        TFDSSource("mnist", data_dir=tmp_path, download=True)


def test_downloading_without_network_is_refused_after_few_retries(tmp_path, monkeypatch):
    import requests
    from tensorflow_datasets.core import dataset_builder
    from tensorflow_datasets.core.download import downloader

    usual = downloader.MAX_RETRIES
    during = []

    def no_network(self, **_):
        during.append(downloader.MAX_RETRIES)
        raise requests.exceptions.ConnectionError("no route to host")

    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr(dataset_builder.DatasetBuilder, "download_and_prepare", no_network)
    with pytest.raises(ConnectionError, match=r"'mnist' could not be downloaded \(no route to host\); prepare it on"):
        TFDSSource("mnist", data_dir=tmp_path, download=True)
    assert during == [4]
    assert usual == downloader.MAX_RETRIES


def test_a_format_without_random_access_is_refused(tmp_path):
    prepare(tmp_path, {"image": image_feature(4, 4, 1)}, {"train": []}, file_format="tfrecord")
    with pytest.raises(
        ValueError, match=r"tiny is prepared as tfrecord, which has no random access; run `tfds build ti"
    ):
        TFDSSource("tiny", data_dir=tmp_path)


def test_unknown_splits_and_features_are_refused(tiny):
    data_dir = tiny[0]
    with pytest.raises(ValueError, match="tiny has no split 'val'; it has train, test, unlabelled, and slices such as"):
        TFDSSource("tiny", "val", data_dir=data_dir)
    with pytest.raises(ValueError, match=r"tiny has no feature 'photo'; it has .*image.*: set the keys"):
        TFDSSource("tiny", data_dir=data_dir, image_key="photo")
    with pytest.raises(ValueError, match="tiny has no feature 'attributes'"):
        TFDSSource("tiny", data_dir=data_dir, conditions=("attributes",))
    with pytest.raises(ValueError, match=r"Labels 'label of tiny \(unlabelled\)' need class numbers >= 0, got -1"):
        TFDSSource("tiny", "unlabelled", data_dir=data_dir, label_key="label")


def test_deep_images_are_refused(tmp_path):
    feature = image_feature(4, 4, 1)
    feature["image"]["dtype"] = "uint16"
    prepare(tmp_path, {"image": feature}, {"train": [{"image": b""}]})
    with pytest.raises(ValueError, match="TFDSSource needs 8-bit images, got uint16 in tiny, feature 'image'"):
        TFDSSource("tiny", data_dir=tmp_path)


def test_reading_imports_neither_tensorflow_nor_jax(tiny):
    code = (
        "import sys; import numpy as np; from score_sde.data import TFDSSource\n"
        f"source = TFDSSource('tiny', data_dir={str(tiny[0])!r}, label_key='label')\n"
        "assert source.gather(np.arange(9))['x'].shape == (9, 4, 6, 3)\n"
        "assert 'tensorflow' not in sys.modules and 'jax' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=pathlib.Path(__file__).parents[2])


def test_cifar10_where_it_is_prepared():
    data_dir = pathlib.Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
    if not (data_dir / "cifar10").is_dir():
        pytest.skip(f"CIFAR-10 is not prepared in {data_dir}")
    source = TFDSSource("cifar10", "test", label_key="label")
    assert (len(source), source.spec.shape, source.spec.num_classes) == (10_000, (32, 32, 3), 10)
    batch = source.gather(np.arange(0, 10_000, 20))
    assert np.unique(batch["label"]).tolist() == list(range(10))
    assert abs(batch["x"].mean() - 121) < 3  # the known mean of CIFAR-10, 0.473 of 255
