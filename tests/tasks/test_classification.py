"""The second task: a classifier of noisy data, trained, resumed and sharded by the trainer that knows no denoiser."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import array, quickstart
from score_sde import parallel
from score_sde.experiment import Experiment
from score_sde.runs import run_training

KEY = jax.random.key(0)
MEANS, STD = np.array([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), 0.3


def points(tmp_path, **training):
    """Three Gaussians in the plane, one for each class."""
    rng = np.random.default_rng(0)
    label = np.arange(600) % 3
    np.savez(tmp_path / "points.npz", x=(MEANS[label] + STD * rng.normal(size=(600, 2))).astype(np.float32), y=label)
    config = array.get_config("points")
    for source in (config.data.train, config.data.eval):
        source.update({"path": str(tmp_path / "points.npz"), "label_key": "y"})
    config.network.update({"width": 32, "depth": 1})
    config.objective = {"name": "cross_entropy", "time_sampler": {"name": "uniform", "t_min": 1e-3}}
    config.optimizer.learning_rate, config.optimizer.schedule = 3e-3, {"schedule": "constant", "warmup_steps": 1}
    config.ema.half_lives_kimg = (2.0,)
    config.training.update({"num_steps": 300, "batch_size": 64, "eval_every": 300, "sample_every": 0, **training})
    with config.unlocked():
        config.task = {"name": "classification"}
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    experiment = Experiment(points(folder))
    with jax.numpy_dtype_promotion("standard"):
        return experiment, folder, run_training(experiment, folder / "run", quiet=True)


def test_it_learns_the_exact_probabilities(trained):
    """p(label | x_t) of the Gaussians is known: p(label) p(x_t | label) over their sum."""
    experiment, _, state = trained
    classify = experiment.task.classifier.bind(state.ema["2"])
    sde, rng = experiment.sde, np.random.default_rng(1)
    for t in (0.05, 0.3, 0.6):
        alpha, sigma = float(sde.alpha(jnp.float32(t))), float(sde.sigma(jnp.float32(t)))
        variance = alpha**2 * STD**2 + sigma**2
        label = rng.integers(0, 3, 400)
        x = (alpha * MEANS[label] + np.sqrt(variance) * rng.normal(size=(400, 2))).astype(np.float32)
        logits = -((x[:, None] - alpha * MEANS[None]) ** 2).sum(-1) / (2 * variance)
        exact = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        error = np.abs(np.exp(classify(jnp.asarray(x), jnp.float32(t))) - exact).mean()
        assert error < 0.05, (t, error)


def test_what_is_logged(trained):
    _, folder, _ = trained
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    last = {name: value for line in lines for name, value in line.items()}
    assert {"loss", "accuracy", "grad_norm", "eval/cross_entropy", "eval/accuracy"} <= set(last)
    levels = {float(n.rsplit("_", 1)[1]): v for n, v in last.items() if n.startswith("eval/accuracy_at_log_snr")}
    assert (
        levels[max(levels)] > 0.98 and levels[min(levels)] < 0.6
    )  # without noise the classes are plain; in noise, chance


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_as_one_that_was_not(trained, tmp_path):
    _, folder, whole = trained
    with jax.numpy_dtype_promotion("standard"):
        run_training(Experiment(points(folder, num_steps=120)), tmp_path / "cut", quiet=True)
        state = run_training(Experiment(points(folder)), tmp_path / "cut", quiet=True)
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_held_out_measurements_do_not_depend_on_the_batch_size(trained):
    experiment, _, state = trained

    def measured(size):
        batches = (parallel.shard_batch(b, experiment.mesh) for b in experiment.eval_batches(size))
        return experiment.task.evaluate(KEY, state.params, batches)

    first, other = measured(600), measured(256)  # the last of the second is padded
    for name, value in first.items():
        assert other[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


def test_there_is_nothing_to_sample(trained):
    experiment, *_ = trained
    with pytest.raises(ValueError, match="needs a run that trains a denoiser, and task.name=classification trains"):
        experiment.generator


@pytest.mark.slow
def test_images_by_the_encoder():
    """Its outputs are the data's classes, and the label is no condition of it."""
    config = quickstart.get_config()
    config.objective = {"name": "cross_entropy"}
    network = {"name": "encoder", "channels": 8, "channel_multipliers": (1, 2), "attention_resolutions": (4,)}
    config.network, config.training.batch_size = {**network, "blocks_per_level": 1}, 8
    with config.unlocked():
        config.task = {"name": "classification"}
    experiment = Experiment(config)
    assert (experiment.task.network.out_features, experiment.task.network.num_classes) == (10, 0)
    batch = jax.tree.map(jnp.asarray, experiment.train_batches[0])
    params = experiment.task.init(KEY, batch)
    log_probs = experiment.task.classifier.bind(params)(batch["x"], jnp.float32(0.3))
    assert log_probs.shape == (8, 10)
    np.testing.assert_allclose(jnp.exp(log_probs).sum(axis=1), 1.0, rtol=1e-5)


def test_mistakes(tmp_path):
    config = points(tmp_path)
    config.objective = {"name": "denoising"}
    with pytest.raises(ValueError, match="classification needs objective.name=cross_entropy, got a DenoisingScore"):
        Experiment(config).task
    config = points(tmp_path)
    del config.task
    with pytest.raises(ValueError, match="objective.name=cross_entropy trains a classifier; set task.name="):
        Experiment(config).task
    config = points(tmp_path)
    config.network.out_features = 4
    with pytest.raises(ValueError, match="network.out_features=4, but the data have 3 classes; leave it out"):
        Experiment(config).task
    config = points(tmp_path)
    for source in (config.data.train, config.data.eval):
        source.label_key = None
    with pytest.raises(ValueError, match="classification needs labels; let data.train and data.eval give them"):
        Experiment(config).task
