"""What guidance is told of an example: from the source through batches to the rule, and never to the network."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from configs import array
from score_sde.data import ArraySource, DataSpec, DigitsSource, EvalBatches, FolderSource, RowsOfClass, TrainBatches
from score_sde.experiment import Experiment
from tests.data.numbered import Numbered

RNG = np.random.default_rng(0)
ROWS = 10
X = RNG.uniform(-1, 1, (ROWS, 4, 6, 1)).astype(np.float32)
Y = RNG.uniform(-1, 1, X.shape).astype(np.float32)
CODE, LABEL = RNG.normal(size=(ROWS, 3)).astype(np.float32), np.arange(ROWS) % 3


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("observed") / "data.npz"
    np.savez(path, x=X, measured=Y, code=CODE, label=LABEL)
    return path


def source(path, **fields):
    return ArraySource(path, observations={"y": "measured", "code": "code"}, label_key="label", **fields)


def test_every_batch_has_observations_apart_from_conditions(path):
    train, held_out = (
        TrainBatches(source=source(path), batch_size=4, seed=0),
        EvalBatches(source=source(path), batch_size=4),
    )
    for batch in (train[1], held_out[2]):
        assert set(batch["condition"]) == {"label"} and set(batch["observation"]) == {"y", "code"}
        np.testing.assert_array_equal(batch["observation"]["y"], Y[batch["index"]])
        np.testing.assert_array_equal(batch["observation"]["code"], CODE[batch["index"]])
    padded = held_out[2]
    assert padded["is_real"].tolist() == [True, True, False, False]
    assert TrainBatches(source=Numbered(8), batch_size=4, seed=0)[0]["observation"] == {}
    assert EvalBatches(source=Numbered(8), batch_size=4)[0]["observation"] == {}


def test_an_observation_over_x_is_flipped_and_cropped_with_it(tmp_path):
    np.savez(tmp_path / "same.npz", x=X, y=X, code=CODE)
    same = ArraySource(tmp_path / "same.npz", observations=["y", "code"])
    batches = TrainBatches(source=same, batch_size=ROWS, seed=0, random_flip=True, crop=(3, 4))
    batch = batches[0]
    np.testing.assert_array_equal(batch["observation"]["y"], batch["x"])
    assert batches.spec.observations == {"y": (3, 4, 1), "code": (3,)} and batches.spec.conditions == {}
    assert batch["observation"]["code"].shape == (ROWS, 3)


def test_a_folder_takes_a_file_beside_its_images(tmp_path):
    for i in range(3):
        Image.fromarray(np.full((4, 4), 10 * i, np.uint8)).save(tmp_path / f"{i}.png")
    np.save(tmp_path / "code.npy", CODE[:3])
    found = FolderSource(tmp_path, observations={"code": "code.npy"})
    assert (found.spec.conditions, found.spec.observations) == ({}, {"code": (3,)})
    np.testing.assert_array_equal(EvalBatches(source=found, batch_size=3)[0]["observation"]["code"], CODE[:3])


def test_a_name_is_a_condition_or_an_observation(path):
    with pytest.raises(ValueError, match=r"A name is a condition or an observation, got \['code'\] as both"):
        ArraySource(path, conditions=["code"], observations=["code"])
    with pytest.raises(ValueError, match="observations needs names, as .* other than x and label"):
        ArraySource(path, observations=["label"])
    with pytest.raises(ValueError, match=r"A name is a condition or an observation, got \['a'\] as both"):
        DataSpec(shape=(2,), conditions={"a": ()}, observations={"a": ()})


def test_an_observation_that_is_not_finite_is_named_as_one(tmp_path):
    np.savez(tmp_path / "nan.npz", x=X, code=np.where(np.arange(ROWS)[:, None] == 2, np.nan, CODE))
    with pytest.raises(ValueError, match="Observation 'code' needs finite values, got others in row 2"):
        ArraySource(tmp_path / "nan.npz", observations=["code"]).gather(np.arange(3))


def config(path, **eval_fields) -> ConfigDict:
    """A small network that is told labels, on the array, with a rule of guidance that reads the observation."""
    made = array.get_config()
    for part, fields in ((made.data.train, {}), (made.data.eval, eval_fields)):
        part.update({"path": str(path), "label_key": "label", **fields})
    made.network = ConfigDict({"name": "tests.latents.own:Pixelwise"})
    made.sampling.update({"solver": {"name": "ddim"}, "guidance": ({"name": "tests.guidance.own_rules:Measured"},)})
    made.sampling.grid = ConfigDict({"name": "uniform", "num_steps": 2, "to_zero": True})
    made.training.batch_size = 4
    return made


def test_guidance_is_given_the_held_out_observation_of_each_image(path):
    """Image i has the observation and the label of example i mod n, whatever the batch; in the second solve, of class 1."""
    made = config(path, observations={"y": "measured"})
    for label in (None, 1):
        made.sampling.label = label
        experiment = Experiment(made)
        rows = np.arange(ROWS) if label is None else np.flatnonzero(label == LABEL)
        key = jax.random.key(0)
        with jax.numpy_dtype_promotion("standard"):
            images = experiment.generator(key, experiment.recipe.init_state().params, 4, batch_size=2, first_index=9)
        drawn = rows[(9 + np.arange(4)) % len(rows)]
        np.testing.assert_allclose(images.x, Y[drawn], atol=1e-5)
        np.testing.assert_array_equal(images.condition["label"], LABEL[drawn])


def test_rules_that_take_no_observation_read_no_held_out_data(path, tmp_path):
    """So that a run can be sampled where its data are not."""
    made = config(path, observations={"y": "measured"})
    made.data.eval.path = str(tmp_path / "gone.npz")
    made.sampling.guidance = ({"name": "classifier_free", "scale": 2.0}, {"name": "threshold"})
    experiment = Experiment(made)
    assert not experiment.sampling_condition.is_observed and experiment.sampling_condition.observation(0, 3) == {}
    assert experiment.sampling_condition(0, 3)["label"].tolist() == [0, 1, 2]


def test_without_held_out_observations_a_rule_says_what_it_needs(path):
    experiment = Experiment(config(path))
    with pytest.raises(ValueError, match=r'Measured needs an observation "y", got \[\]'):
        experiment.generator.denoise(
            {}, experiment.sampling_condition(0, 2), experiment.sampling_condition.observation(0, 2)
        )


class Asked(Numbered):
    """Remembers which labels were read."""

    def __init__(self, length):
        super().__init__(length)
        self.read = []

    def labels_at(self, indices):
        self.read += indices.tolist()
        return super().labels_at(indices)


def test_no_more_labels_are_read_than_are_needed():
    """Of a large data set reading all takes minutes; here each label is read once, and none twice."""
    asked = Asked(2000)
    rows = RowsOfClass(asked, 3)
    assert rows.first(2).tolist() == [3, 10] and len(asked.read) < 300
    assert rows.first(100).tolist() == list(range(3, 700, 7)) and len(asked.read) < 1000
    assert rows.first(10**6).tolist() == list(range(3, 2000, 7)) and asked.read == list(range(2000))
    assert RowsOfClass(DigitsSource("test"), 99).first(5).size == 0
