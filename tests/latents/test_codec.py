"""A codec from outside at its two places: training on encoded data, and decoding before images are rounded."""

import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import base, quickstart
from score_sde.data import DigitsSource, TrainBatches
from score_sde.experiment import Experiment
from score_sde.latents import EncodedSource, Identity
from score_sde.runs import held_out_bits_per_dim, run_training
from score_sde.runs.measures import held_out_batches, loss_by_noise_level
from score_sde.runs.sampling import stream_samples
from score_sde.runs.streams import describe
from score_sde.trained import restored
from tests.latents.own import Lossy, Quantized, SpaceToDepth, Wrong, calls_of

CODEC = {"name": "tests.latents.own:SpaceToDepth", "gain": 0.5}
LATENT = (4, 4, 4)


def tiny(codec=None) -> ConfigDict:
    """A small network on the 8×8 digits, two steps, and a short solve with noise."""
    config = quickstart.get_config()
    config.data.augment.dequantize = False
    config.data.train.labels = config.data.eval.labels = False
    config.task.condition_dropout = 0.0
    config.network = ConfigDict({"name": "tests.latents.own:Pixelwise"})
    config.sampling.grid.num_steps = 3
    config.training.update({"num_steps": 2, "batch_size": 8, "eval_every": 1, "eval_levels": 2})
    config.training.update({"eval_batch_size": 8, "checkpoint_every": 0, "sample_every": 2})
    config.mesh.num_devices = 1
    config.data.eval.split = "test"
    if codec is not None:
        config.codec = ConfigDict(codec)
    return config


@pytest.fixture(autouse=True, scope="module")
def ordinary_promotion():
    """Optax counts steps in integers and raises floats to them, which strict promotion forbids."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("latent")
    experiment = Experiment(tiny(CODEC))
    return experiment, workdir, run_training(experiment, workdir)


def test_a_source_gives_encoded_examples_each_encoded_once():
    digits = DigitsSource("test", labels=True)
    codec, calls = calls_of(SpaceToDepth(0.5))
    source, indices = EncodedSource(digits, codec), np.array([3, 0, 3])
    expected = SpaceToDepth(0.5).encode(digits.spec.scale(digits.gather(indices)["x"]))
    for _ in range(2):
        found = source.gather(indices)
        np.testing.assert_allclose(found["x"], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(found["label"], digits.gather(indices)["label"])
    assert calls == [2]  # examples 0 and 3, once
    assert source.spec.shape == LATENT and source.spec.num_classes == 10
    np.testing.assert_array_equal(source.labels(), digits.labels())
    assert source.digest() == digits.digest() and len(source) == len(digits)
    np.testing.assert_array_equal(TrainBatches(source=source, batch_size=4, seed=0)[1]["x"].shape, (4, *LATENT))


def test_without_memory_it_encodes_each_time():
    codec, calls = calls_of(SpaceToDepth(0.5))
    source = EncodedSource(DigitsSource("test"), codec, cache_bytes=1000)
    first, again = source.gather(np.array([5, 6])), source.gather(np.array([5, 6]))
    assert len(calls) > 1
    np.testing.assert_array_equal(first["x"], again["x"])


def test_training_and_its_measurements_see_encoded_data(trained):
    experiment, _, _ = trained
    assert (experiment.spec.shape, experiment.latent_spec.shape) == ((8, 8, 1), LATENT)
    plain = Experiment(tiny())
    codec = experiment.codec
    batch, raw = experiment.train_batches[0], plain.train_batches[0]
    np.testing.assert_array_equal(batch["index"], raw["index"])
    np.testing.assert_allclose(batch["x"], codec.encode(raw["x"]), rtol=1e-5, atol=1e-6)
    held_out, there = next(held_out_batches(experiment, 4)), next(held_out_batches(plain, 4))
    np.testing.assert_allclose(held_out["x"], codec.encode(there["x"]), rtol=1e-5, atol=1e-6)


def test_held_out_data_are_not_encoded_where_samples_are_compared_with_them(trained):
    np.testing.assert_array_equal(trained[0].eval_batches(4)[0]["x"], Experiment(tiny()).eval_batches(4)[0]["x"])


def test_a_run_trains_measures_and_draws_pictures(trained):
    experiment, workdir, _ = trained
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert any("eval/eps_error" in row for row in rows)
    assert list(workdir.rglob("*.png"))
    params = experiment.recipe.init_state().params
    assert loss_by_noise_level(experiment, params, 4).num_examples == 4


def test_samples_are_decoded_and_so_are_the_kept_states(trained):
    """Of the same denoiser, with the codec and without."""
    experiment, _, state = trained
    generator, key = experiment.generator._replace(keep=(0, 3)), jax.random.key(0)
    decoded = generator(key, state.params, 3)
    latent = generator._replace(codec=Identity())(key, state.params, 3)
    assert latent.x.shape == (3, *LATENT) and decoded.x.shape == (3, 8, 8, 1)
    np.testing.assert_allclose(decoded.x, experiment.codec.decode(latent.x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(experiment.codec.encode(decoded.x), latent.x, rtol=1e-4, atol=1e-5)
    assert decoded.trajectory.shape == (3, 2, 8, 8, 1)
    np.testing.assert_allclose(decoded.trajectory[:, 1], decoded.x, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_files_hold_images_of_the_datas_shape_in_8_bits(trained):
    experiment, workdir, _ = trained
    model = restored(experiment, workdir)
    folder = stream_samples(model, 3, 8, kind="npy", quiet=True)
    x = np.load(folder / "x.npy")
    assert x.shape == (3, 8, 8, 1) and x.dtype == np.uint8
    drawn = model.sample(3, experiment.run_key("sample"), batch_size=8)  # in the 17 levels of the data
    np.testing.assert_array_equal(x, np.rint(drawn * (255 / 16)))


def test_the_likelihood_of_encoded_data_is_refused(trained):
    experiment, _, state = trained
    with pytest.raises(ValueError, match=r"bits/dim need codec.name=identity, got tests.latents.own:SpaceToDepth"):
        held_out_bits_per_dim(experiment, state.params, 4)


def test_an_augmentation_of_encoded_numbers_is_refused():
    for field, value in (("random_flip", True), ("crop", (4, 4)), ("dequantize", True)):
        config = tiny(CODEC)
        config.data.augment[field] = value
        with pytest.raises(
            ValueError, match=f"encodes each example once, before it is augmented, so that data.augment.{field}"
        ):
            Experiment(config).train_batches


@pytest.mark.parametrize(
    ("codec", "message"),
    [
        (Wrong(), r"Wrong.encode needs to give z .* of the shape \(4, 4, 4\) that Wrong.spec says, got \(2, 8, 8, 1\)"),
        (Lossy(), r"Lossy.decode needs to give x of the shape \(2, 8, 8, 1\), got \(2, 2, 8, 1\)"),
        (Quantized(), "Quantized.spec needs levels=None, for encoded numbers are not quantized, got 17"),
    ],
)
def test_a_codec_that_contradicts_itself_is_an_error(codec, message):
    with pytest.raises(ValueError, match=message):
        EncodedSource(DigitsSource("test"), codec)


def test_the_codec_is_part_of_what_determines_a_result_and_the_identity_is_not():
    """So that folders of earlier versions stay valid."""
    params = {"w": np.zeros(2)}
    assert "codec" not in describe(Experiment(tiny()), params, "sampling")["config"]
    assert "codec" not in describe(Experiment(tiny({"name": "identity"})), params, "sampling")["config"]
    assert describe(Experiment(tiny(CODEC)), params, "sampling")["config"]["codec"]["gain"] == 0.5


def test_a_config_may_leave_the_codec_out():
    assert Experiment(base.get_config()).codec == Identity()
