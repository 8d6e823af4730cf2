"""One numbering of classes, by name, in training, held-out data and sampling; and the sizes of the network that follow."""

import re

import jax
import numpy as np
import PIL.Image
import pytest
from ml_collections import ConfigDict

from configs import array, density2d, folder
from score_sde.config import plain
from score_sde.data import SOURCES, DataSpec, class_number, numbered_like
from score_sde.experiment import Experiment
from score_sde.run_config import apply_override, from_workdir, write_config
from tests.data.tiny_tfds import image_feature, label_feature, png, prepare

GREY = {"cat": 10, "dog": 100, "horse": 200}


@pytest.fixture(autouse=True, scope="module")
def ordinary_promotion():
    """Optax counts steps in integers and raises floats to them, which strict promotion forbids."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def pixels(name):
    return np.full((4, 4, 3), GREY.get(name, 50), np.uint8)


def in_folder(where, names):
    for i, name in enumerate(names):
        (where / name).mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(pixels(name)).save(where / name / f"{i}.png")
    return {"name": "folder", "path": str(where), "labels": True}


def in_array(where, names):
    np.savez(where.with_suffix(".npz"), x=np.stack([pixels(name) for name in names]), y=np.array(names))
    return {"name": "array", "path": str(where.with_suffix(".npz")), "label_key": "y"}


def in_numbered_array(where, names, classes):
    """Labels are numbers, in an order of their own, which `class_names` tells."""
    labels = np.array([classes.index(name) for name in names])
    np.savez(where.with_suffix(".npz"), x=np.stack([pixels(name) for name in names]), y=labels)
    return {"name": "array", "path": str(where.with_suffix(".npz")), "label_key": "y", "class_names": tuple(classes)}


def in_tfds(where, names, classes):
    records = [{"image": png(pixels(name)), "label": classes.index(name)} for name in names]
    prepare(where, {"image": image_feature(4, 4, 3), "label": label_feature(len(classes))}, {"train": records})
    (where / "tiny" / "1.0.0" / "label.labels.txt").write_text("\n".join(classes) + "\n")
    return {"name": "tfds", "dataset": "tiny", "data_dir": str(where), "label_key": "label"}


KINDS = {
    "folder": in_folder,
    "array of texts": in_array,
    "array of numbers": lambda where, names: in_numbered_array(where, names, sorted(set(names), reverse=True)),
    "tfds": lambda where, names: in_tfds(where, names, sorted(set(names), reverse=True)),
}


def experiment_on(train, heldout=None, **network):
    config = density2d.get_config()
    config.data = ConfigDict({"train": train, "eval": dict(heldout or train), "augment": {}})
    config.network = ConfigDict(
        {"name": "unet", "channels": 8, "channel_multipliers": (1,), "blocks_per_level": 1, **network}
    )
    return Experiment(config)


@pytest.mark.parametrize("heldout", KINDS)
@pytest.mark.parametrize("train", KINDS)
def test_held_out_classes_have_the_numbers_of_training(train, heldout, tmp_path):
    """The held-out data lack a class, so that their own numbering is another."""
    experiment = experiment_on(
        KINDS[train](tmp_path / "train", ["horse", "cat", "dog", "cat"]),
        KINDS[heldout](tmp_path / "test", ["horse", "dog", "horse"]),
    )
    spec = experiment.spec
    assert spec.num_classes == 3 and set(spec.class_names) == set(GREY)
    for source in (experiment.train_source, experiment.eval_source):
        examples = source.gather(np.arange(len(source)))
        assert [GREY[spec.class_name(n)] for n in examples["label"].tolist()] == examples["x"][:, 0, 0, 0].tolist()
        np.testing.assert_array_equal(source.labels(), examples["label"])
    experiment.check_held_out()
    assert experiment.eval_batches(2).spec.class_names == spec.class_names


@pytest.mark.parametrize("kind", KINDS)
def test_a_held_out_class_that_training_lacks_is_named(kind, tmp_path):
    train, heldout = (
        in_folder(tmp_path / "train", ["horse", "cat"]),
        KINDS[kind](tmp_path / "test", ["horse", "horses"]),
    )
    message = (
        r"config.data.eval has the class 'horses', which is not among the 2 known classes: 'horse', 'cat'. Remove its"
    )
    with pytest.raises(ValueError, match=message):
        experiment_on(train, heldout).check_held_out()


def numbers(where, labels, **fields):
    np.savez(where, x=np.zeros((len(labels), 4, 4, 3), np.uint8), y=np.array(labels))
    return {"name": "array", "path": str(where), "label_key": "y", **fields}


def test_classes_without_names_have_their_numbers(tmp_path):
    train = numbers(tmp_path / "train.npz", [0, 1, 2])
    experiment = experiment_on(train, numbers(tmp_path / "test.npz", [1, 0]))
    assert experiment.eval_source.spec == experiment.train_source.spec
    experiment.check_held_out()
    more = numbers(tmp_path / "more.npz", [1, 3])
    with pytest.raises(
        ValueError, match="config.data.eval has the class '3', which is not among the 3 known classes: '0', '"
    ):
        experiment_on(train, more).check_held_out()
    named = in_folder(tmp_path / "named", ["cat", "dog", "horse"])
    for pair in ((named, train), (train, named)):
        with pytest.raises(ValueError, match=r"give the names of the numbers, in order, by class_names"):
            experiment_on(*pair).check_held_out()
    given = numbers(tmp_path / "given.npz", [2, 0], class_names=("dog", "cat", "horse"))
    assert experiment_on(named, given).eval_source.labels().tolist() == [2, 1]


def test_a_renumbered_source_is_the_same_data(tmp_path):
    one, two = (
        SOURCES["array"](in_array(tmp_path / n, names)["path"], label_key="y")
        for n, names in (("a", ["cat", "dog", "horse"]), ("b", ["dog", "horse"]))
    )
    same = numbered_like(two, one.spec, "this")
    assert same.digest() == two.digest() and same.facts()["class_names"] == ["cat", "dog", "horse"] and len(same) == 2
    assert numbered_like(one, one.spec, "this") is one
    unlabelled = SOURCES["array"](str(tmp_path / "b.npz"))
    assert numbered_like(unlabelled, one.spec, "this") is unlabelled


@pytest.mark.parametrize(("text", "number"), [('"horse"', 2), ("horse", 2), ("1", 1), ("None", None)])
def test_a_class_is_drawn_by_its_name_or_number(text, number, tmp_path):
    experiment = experiment_on(in_folder(tmp_path, ["horse", "cat", "dog"]))
    for earlier in (None, "cat", 1):
        config = experiment.config.copy_and_resolve_references()
        config.sampling.label = earlier
        apply_override(config, f"sampling.label={text}")
        labels = Experiment(config).sampling_condition(0, 4)["label"].tolist()
        assert labels == ([0, 1, 2, 0] if number is None else [number] * 4)


NAMED = DataSpec(shape=(1,), num_classes=3, class_names=("1", "10", "2"))


@pytest.mark.parametrize(
    ("label", "spec", "message"),
    [
        ("hors", DataSpec(shape=(1,), num_classes=2, class_names=("cat", "horse")),
         "sampling.label has the class 'hors', which is not among the 2 known classes: 'horse', 'cat'"),
        ("horse", DataSpec(shape=(1,), num_classes=2), "not among the 2 known classes: '0', '1'"),
        (3, NAMED, "sampling.label needs 0 <= label < 3, or a class name, .* got 3; the network's null class"),
        (2, DataSpec(shape=(1,), num_classes=3, class_names=("1", "2", "33")),
         "sampling.label=2 may be the class number 2, '33', or the class named '2'; give the name as a text with quotes"),
    ],
)  # fmt: skip
def test_a_label_that_is_no_class_is_refused(label, spec, message):
    with pytest.raises(ValueError, match=message):
        class_number(label, spec, "sampling.label")


def test_a_name_that_is_a_number_is_a_name():
    assert [class_number(label, NAMED, "sampling.label") for label in ("1", "10", "2", 2, 0)] == [0, 1, 2, 2, 0]
    many = DataSpec(shape=(1,), num_classes=1000, class_names=tuple(f"class {i}" for i in range(1000)))
    with pytest.raises(ValueError, match=r"known classes: 'class 777', .* and 980 more\.$"):
        class_number("clas 777", many, "sampling.label")


def test_a_label_needs_a_model_with_labels():
    config = density2d.get_config()
    config.sampling.label = 1
    with pytest.raises(
        ValueError, match="sampling.label needs a model with labels as a condition, got 1; set it to None"
    ):
        Experiment(config).sampling_condition(0, 2)


def on_points(folder, names=("label",), **network):
    """An experiment whose data give a label, an embedding or both; built to the shapes of its parameters."""
    arrays = {
        "x": np.zeros((4, 2), np.float32),
        "y": np.arange(4) % 3,
        "text": np.zeros((4, 5)),
        "map": np.zeros((4, 5, 2)),
    }
    np.savez(folder / "points.npz", **arrays)
    config = array.get_config("points")
    for source in (config.data.train, config.data.eval):
        source.path = str(folder / "points.npz")
        source.label_key = "y" if "label" in names else None
        source.conditions = {"embedding" if name == "text" else name: name for name in names if name != "label"}
    config.network = ConfigDict({"name": "mlp", "width": 8, "depth": 1, **network})
    return Experiment(config)


@pytest.mark.few(3)
@pytest.mark.parametrize("names", [(), ("label",), ("text",), ("label", "text")])
@pytest.mark.parametrize("sizes", [{}, {"num_classes": None, "embedding_dim": None}])
def test_sizes_are_by_default_those_of_the_data(names, sizes, tmp_path):
    """And config.json holds them as numbers, so that a run says what it was."""
    experiment = on_points(tmp_path, names, **sizes)
    network = experiment.denoiser.network
    assert (network.num_classes, network.embedding_dim) == (3 * ("label" in names), 5 * ("text" in names))
    experiment.recipe.state_shapes()
    write_config(experiment, tmp_path)
    saved = plain(from_workdir(tmp_path).config)["network"]
    assert (saved["num_classes"], saved["embedding_dim"]) == (network.num_classes, network.embedding_dim)


@pytest.mark.parametrize(
    ("names", "network", "message"),
    [
        (("label",), {"num_classes": 2}, "config.network.num_classes=2, but the data have 3 classes; leave out network.num"),
        (("label",), {"num_classes": 1}, "config.network.num_classes=1, but the data have 3 classes; leave out"),
        (("label",), {"num_classes": 4}, "config.network.num_classes=4, but the data have 3 classes; leave out"),
        (("label",), {"num_classes": 0}, "config.network.num_classes=0, but the data have 3 classes; leave out"),
        ((), {"num_classes": 3}, r"num_classes=3, but the data have 0 classes; .*, or let the data give labels \(data.train"),
        (("text",), {"embedding_dim": 4}, "config.network.embedding_dim=4, but the data have 5 numbers in the embedding"),
        ((), {"embedding_dim": 5}, r"but the data have 0 numbers in the embedding; .*, or let the data give an embedding"),
        (("label", "map"), {}, r"MLP takes conditions of the kinds vector, got 'map' of kind 'tokens'; leave it out, or"),
        (("label", "map"), {"conditions": {}}, r"conditions=\{\}, but the data have the further conditions \{'map': 'tok"),
        (("label",), {"out_features": 1}, r"MLP needs an output of the shape of x, \(1, 2\), got \(1, 1\); set out_channels"),
    ],
)  # fmt: skip
def test_sizes_that_are_not_those_of_the_data_are_refused(names, network, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        on_points(tmp_path, names, **network).recipe.state_shapes()


def test_an_embedding_is_one_vector(tmp_path):
    config = on_points(tmp_path, ("map",)).config.copy_and_resolve_references()
    config.data.train.conditions = ConfigDict({"embedding": "map"})
    experiment = Experiment(config)
    with pytest.raises(
        ValueError, match=re.escape("condition 'embedding' needs one vector per example, got the shape (5, 2)")
    ):
        experiment.denoiser


def test_the_folders_config_takes_the_classes_of_its_folder(tmp_path):
    config = folder.get_config()
    for name in ("train", "eval"):
        config.data[name].update({"path": in_folder(tmp_path / name, ["horse", "cat"])["path"], "labels": True})
    assert Experiment(config).denoiser.network.num_classes == 2
