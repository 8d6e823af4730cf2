"""Training, resuming, sampling and measuring a tiny model end to end."""

import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import density2d
from score_sde.experiment import Experiment, from_workdir
from score_sde.runs import (
    loss_by_noise_level,
    pick_params,
    restore,
    run_density,
    run_likelihood,
    run_noise_levels,
    run_sampling,
    run_training,
)


@pytest.fixture(autouse=True, scope="module")
def ordinary_promotion():
    """Optax counts steps in integers and raises floats to them, which strict promotion forbids."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def tiny(**training) -> ConfigDict:
    config = density2d.get_config("moons")
    config.network.update({"width": 16, "depth": 1})
    config.data.train.num_examples = config.data.eval.num_examples = 300
    config.ema.half_lives_kimg = (0.5, 5.0)
    config.optimizer.schedule = ConfigDict({"schedule": "constant", "warmup_steps": 10})
    schedule = {"num_steps": 40, "batch_size": 32, "eval_batch_size": 64, "log_every": 5, "checkpoint_every": 10}
    config.training.update({**schedule, "eval_every": 20, "sample_every": 20, **training})
    return config


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never stopped."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, run_training(Experiment(tiny()), workdir, quiet=True)


def test_stop_and_resume_is_bit_identical(whole, tmp_path):
    """Parameters, averages, optimizer, and the file of metrics."""
    workdir, state = whole
    run_training(Experiment(tiny(num_steps=20)), tmp_path, quiet=True)
    resumed = run_training(Experiment(tiny()), tmp_path, quiet=True)
    assert bits(resumed) == bits(state)
    assert (tmp_path / "metrics.jsonl").read_bytes() == (workdir / "metrics.jsonl").read_bytes()


def test_a_run_leaves_what_it_promises(whole):
    workdir, state = whole
    steps = [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert steps[0] == 5 and max(steps) == 40 and list((workdir / "tensorboard").iterdir())
    restored = restore(Experiment(tiny()), workdir)
    assert bits(restored) == bits(state) and int(restored.step) == 40
    assert int(restore(Experiment(tiny()), workdir, step=30).step) == 30
    assert bits(from_workdir(workdir).state_shapes()) is not None


def test_training_lowers_the_loss_at_every_noise_level(tmp_path):
    """On the same held-out points and noise, where there is something to learn: not where ε is all of x."""
    config = tiny(num_steps=1000, log_every=50, checkpoint_every=1000, eval_every=0, sample_every=0)
    config.network.update({"width": 32, "depth": 2})
    config.ema.half_lives_kimg = (2.0,)
    experiment = Experiment(config)
    before = loss_by_noise_level(experiment, experiment.init_state().params)
    after = loss_by_noise_level(experiment, pick_params(run_training(experiment, tmp_path, quiet=True), None))
    informative = np.abs(before.log_snr - 2) < 3
    assert informative.sum() >= 3 and np.all(after.mean[informative] < 0.97 * before.mean[informative])
    assert before.num_examples == 300


def test_sampling_a_run(whole, tmp_path):
    """Image 5 of ten is image 5 of a run that starts there, in batches of another size."""
    workdir, _ = whole
    experiment = from_workdir(workdir, ["sampling.grid.num_steps=7"])
    ten = run_sampling(experiment, workdir, 10, 4, output=tmp_path / "ten")
    three = run_sampling(experiment, workdir, 3, 8, first_index=5, ema="none", output=tmp_path / "three")
    again = run_sampling(experiment, workdir, 3, 8, first_index=5, output=tmp_path / "again")
    assert ten.x.shape == (10, 2) and set(ten.nfe.tolist()) == {7}
    np.testing.assert_allclose(ten.x[5:8], again.x, rtol=1e-5, atol=1e-6)
    assert not np.allclose(three.x, again.x)  # raw parameters
    with np.load(tmp_path / "three" / "samples.npz") as file:
        assert file["index"].tolist() == [5, 6, 7] and np.array_equal(file["x"], three.x)


def test_measuring_a_run(whole):
    workdir, _ = whole
    overrides = ["likelihood.rtol=1e-3", "likelihood.atol=1e-3", "likelihood.batch_size=64"]
    experiment = from_workdir(workdir, overrides)
    bits = run_likelihood(experiment, workdir, max_examples=100)
    assert bits.num_examples == 100 and bits.interval[0] < bits.mean < bits.interval[1]
    assert json.loads((workdir / "likelihood.json").read_text())["mean"] == bits.mean
    curve = run_noise_levels(experiment, workdir)
    assert curve.num_examples == 300 and (workdir / "noise_levels.png").is_file()
    result = run_density(experiment, workdir, num_samples=500, resolution=12)
    assert result["kl"] > 0 and (workdir / "density.png").is_file()
    all_bits = -result["held_out_learned"] / (2 * np.log(2))
    assert abs(all_bits - bits.mean) < 5 * bits.standard_error


def test_a_different_config_is_refused(whole, tmp_path):
    workdir, _ = whole
    config = tiny()
    config.sde.beta_max = 10.0
    with pytest.raises(ValueError, match=r"another config: sde.beta_max: 20.0 there, 10.0 here"):
        run_training(Experiment(config), workdir, quiet=True)
    with pytest.raises(ValueError, match=r"training.batch_size: 32 there, 64 here"):
        run_training(Experiment(tiny(batch_size=64)), workdir, quiet=True)


def test_a_checkpoint_that_does_not_fit_is_refused(whole):
    workdir, _ = whole
    config = tiny()
    config.network.width = 24
    with pytest.raises(ValueError, match=r"does not fit the config: .*has shape .* in the checkpoint"):
        restore(Experiment(config), workdir)
    with pytest.raises(FileNotFoundError, match=r"No checkpoint at step 7 in .*it has \[\d"):
        restore(Experiment(tiny()), workdir, step=7)


def test_nothing_to_restore(tmp_path):
    with pytest.raises(FileNotFoundError, match="No checkpoint in"):
        restore(Experiment(tiny()), tmp_path)
    with pytest.raises(FileNotFoundError, match=r"No config.json in .*train there first"):
        from_workdir(tmp_path)


def test_choice_of_average(whole):
    _, state = whole
    assert pick_params(state, None) is state.ema["0.5"]
    assert pick_params(state, "5") is state.ema["5"]
    assert pick_params(state, "none") is state.params
    with pytest.raises(ValueError, match=r"--ema needs one of \['0.5', '5', 'none'\].*got '7'"):
        pick_params(state, "7")


def test_intervals_that_would_leave_gaps(tmp_path):
    with pytest.raises(ValueError, match="checkpoint_every needs to be a multiple of training.log_every"):
        run_training(Experiment(tiny(checkpoint_every=7)), tmp_path, quiet=True)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    config = tiny()
    config.optimizer.learning_rate = 1e30
    config.optimizer.clip_norm = None
    with pytest.raises(FloatingPointError, match="The mean loss up to step .*lower optimizer.learning_rate"):
        run_training(Experiment(config), tmp_path, quiet=True)
