"""Dropped conditions: at their rates, independently of all else, and replaced by the null condition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import array, density2d
from score_sde.experiment import Experiment
from score_sde.networks import MLP
from score_sde.tasks.conditions import check_rates, draw_keep, drop, dropped_names

KEY = jax.random.key(0)
NUMBER = 4000
CONDITION = {"label": jnp.arange(NUMBER) % 3, "embedding": jnp.ones((NUMBER, 2))}


def test_one_rate_drops_all_conditions_of_an_example_together():
    keep = draw_keep(KEY, 0.3, CONDITION)
    np.testing.assert_array_equal(keep["label"], keep["embedding"])
    assert abs(1 - np.mean(keep["label"]) - 0.3) < 5 * np.sqrt(0.3 * 0.7 / NUMBER)


def test_a_rate_for_each_condition_drops_it_by_itself():
    keep = draw_keep(KEY, {"label": 0.5, "embedding": 0.1}, CONDITION)
    kept = np.stack([keep["label"], keep["embedding"]]).astype(float)
    np.testing.assert_allclose(1 - kept.mean(axis=1), [0.5, 0.1], atol=5 * 0.5 / np.sqrt(NUMBER))
    assert abs(np.corrcoef(kept)[0, 1]) < 5 / np.sqrt(NUMBER)
    assert list(draw_keep(KEY, {"label": 0.5}, CONDITION)) == ["label"]


def test_a_mask_is_dropped_with_its_sequence():
    rows = jnp.ones((NUMBER, 2, 3))
    condition = {"text": rows, "text_mask": rows[..., 0], "words": rows, "words_length": rows[:, 0, 0], "a_mask": rows}
    assert dropped_names(condition) == ["text", "words", "a_mask"]
    keep = draw_keep(KEY, {"text": 0.5, "words": 0.5}, condition)
    assert sorted(keep) == ["text", "text_mask", "words", "words_length"]
    np.testing.assert_array_equal(keep["text"], keep["text_mask"])
    np.testing.assert_array_equal(keep["words"], keep["words_length"])
    assert not np.array_equal(keep["text"], keep["words"])
    dropped = drop(condition, keep, MLP().null)
    np.testing.assert_array_equal(dropped["text_mask"].any(axis=1), keep["text"])


def test_dropped_rows_are_the_null_condition():
    network = MLP(num_classes=3, embedding_dim=2)
    keep = {"label": jnp.arange(NUMBER) % 2 == 0}
    dropped = drop(CONDITION, keep, network.null)
    np.testing.assert_array_equal(dropped["label"], np.where(np.arange(NUMBER) % 2 == 0, np.arange(NUMBER) % 3, 3))
    assert dropped["embedding"] is CONDITION["embedding"]
    null = network.null(CONDITION)
    assert set(np.unique(null["label"])) == {3} and not np.any(null["embedding"])


@pytest.mark.parametrize(
    ("rates", "names", "message"),
    [
        ({"lable": 0.1}, ["label"], r"names of conditions that the data have, \['label'\], got \['lable'\]"),
        (0.1, [], r"condition_dropout=0.1 needs data with conditions, and these have none"),
        (1.0, ["label"], r"needs rates with 0 <= rate < 1, got \{'label': 1.0\}"),
        ({"label": -0.1}, ["label"], r"needs rates with 0 <= rate < 1, got \{'label': -0.1\}"),
    ],
)
def test_mistakes(rates, names, message):
    with pytest.raises(ValueError, match=message):
        check_rates(rates, names)


def labelled(tmp_path, **task) -> Experiment:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "points.npz", x=rng.normal(size=(40, 2)).astype(np.float32), y=np.arange(40) % 3)
    config = array.get_config("points")
    for source in (config.data.train, config.data.eval):
        source.update({"path": str(tmp_path / "points.npz"), "label_key": "y"})
    config.network.update({"width": 8, "depth": 1})
    config.training.batch_size = 200
    config.mesh.num_devices = 1
    with config.unlocked():
        config.task = {"name": "denoising", **task}
    return Experiment(config)


def test_the_null_class_is_trained_only_where_conditions_are_dropped(tmp_path):
    """Its row of the table has a gradient then; without dropout nothing else of a step changes."""

    def gradient(experiment):
        batch = jax.tree.map(jnp.asarray, experiment.train_batches[0])
        params = experiment.task.init(KEY, batch)
        params = jax.tree.map(
            lambda leaf: leaf + 0.1, params
        )  # or the last layer, which starts at zero, passes nothing

        def loss(params):
            draws = experiment.task.draw(jax.random.key(1), jnp.int32(0), batch)
            return experiment.task.losses(params, {}, batch, draws, KEY).losses["denoiser"].mean()

        return jax.jit(jax.grad(loss))(params)["network"]["embedding"]["label"]

    without, dropped = gradient(labelled(tmp_path)), gradient(labelled(tmp_path, condition_dropout=0.2))
    assert not np.any(without[3]) and np.all(np.any(without[:3], axis=1))
    assert np.all(np.any(dropped, axis=1))


def test_dropping_does_not_change_the_other_draws(tmp_path):
    experiments = labelled(tmp_path), labelled(tmp_path, condition_dropout={"label": 0.5})
    draws = [e.task.draw(KEY, jnp.int32(0), jax.tree.map(jnp.asarray, e.train_batches[0])) for e in experiments]
    for name in ("t", "eps"):
        np.testing.assert_array_equal(draws[0]["objective"][name], draws[1]["objective"][name])
    keep = np.asarray(draws[1]["keep"]["label"], float)
    t = np.asarray(draws[1]["objective"]["t"])
    assert abs(np.corrcoef(keep, t)[0, 1]) < 5 / np.sqrt(len(t))


def test_a_rate_for_data_without_conditions_is_refused_before_training():
    config = density2d.get_config()
    with config.unlocked():
        config.task = {"name": "denoising", "condition_dropout": 0.1}
    with pytest.raises(ValueError, match="condition_dropout=0.1 needs data with conditions"):
        Experiment(config).recipe.state_shapes()
