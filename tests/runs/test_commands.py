"""Training, resuming, sampling and measuring a tiny model end to end."""

import errno
import json
import os
import signal

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from configs import density2d
from experiments.results import run_density, run_likelihood, run_noise_levels, run_sampling
from score_sde.config import Schedule, sections
from score_sde.experiment import Experiment
from score_sde.run_config import from_workdir
from score_sde.runs import (
    loss_by_noise_level,
    pick_params,
    read_state,
    run_training,
)
from score_sde.runs.starts import read_starts
from score_sde.tools.report import write_report
from score_sde.trained import load, restored
from score_sde.training.description import Description
from score_sde.training.lock import RunLock
from score_sde.training.logs.logging import MetricLogger, read_metrics
from score_sde.training.logs.progress import Progress
from score_sde.training.optimizers import optimizer_of
from score_sde.training.preemption import StopRequest


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
    restored = read_state(Experiment(tiny()), workdir)
    assert bits(restored) == bits(state) and int(restored.step) == 40
    assert int(read_state(Experiment(tiny()), workdir, step=30).step) == 30
    assert bits(from_workdir(workdir).recipe.state_shapes()) is not None


def cosine(num_steps, decay_steps=None) -> ConfigDict:
    """Quick to train, with a rate that falls to 0."""
    config = tiny(num_steps=num_steps, eval_every=0, sample_every=0)
    config.optimizer.schedule = ConfigDict({"schedule": "cosine", "decay_steps": decay_steps})
    return config


def test_the_learning_rate_is_logged(tmp_path, caplog):
    """Of the last step of each line; a schedule without a length is as long as the training, and nothing is told."""
    run_training(Experiment(cosine(10)), tmp_path, quiet=True)
    logged = read_metrics(tmp_path / "metrics.jsonl")["learning_rate"]
    rate = cosine(10).optimizer.learning_rate
    assert logged.steps.tolist() == [5, 10]
    by_hand = [rate * (1 + np.cos(np.pi * n / 10)) / 2 for n in (4, 9)]
    np.testing.assert_allclose(logged.values, by_hand, rtol=1e-4)
    assert "learning rate" not in caplog.text


def test_a_rate_of_0_is_told_before_training(tmp_path, caplog):
    """A line where the last steps change nothing, an error where none would, at the start and on a resume."""
    run_training(Experiment(cosine(10, 8)), tmp_path, quiet=True)
    assert "The last 2 of 10 updates will change nothing: the learning rate is 0 from update 8 on" in caplog.text
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(
        ValueError, match="Further training would change nothing: the learning rate is 0 from update 10 on"
    ):
        run_training(Experiment(cosine(20, 8)), tmp_path, quiet=True)
    assert (tmp_path / "config.json").read_bytes() == before
    with pytest.raises(ValueError, match="optimizer.schedule.decay_steps: 8 there, 20 here"):
        run_training(Experiment(cosine(20)), tmp_path, quiet=True)


def test_a_warm_up_beyond_the_end_is_told(tmp_path, caplog):
    run_training(Experiment(tiny(num_steps=5, eval_every=0, sample_every=0)), tmp_path, quiet=True)
    assert "The warm-up of 10 steps is longer than the training of 5: the learning rate only gets to 0.5" in caplog.text


@pytest.mark.slow
def test_training_lowers_the_loss_at_every_noise_level(tmp_path):
    """On the same held-out points and noise, where there is something to learn: not where ε is all of x."""
    config = tiny(num_steps=1000, log_every=50, checkpoint_every=1000, eval_every=0, sample_every=0)
    config.network.update({"width": 32, "depth": 2})
    config.ema.half_lives_kimg = (2.0,)
    experiment = Experiment(config)
    before = loss_by_noise_level(experiment, experiment.recipe.init_state().params)
    after = loss_by_noise_level(experiment, pick_params(run_training(experiment, tmp_path, quiet=True), None))
    informative = np.abs(before.log_snr - 2) < 3
    assert informative.sum() >= 3 and np.all(after.mean[informative] < 0.97 * before.mean[informative])
    assert before.num_examples == 300


def test_the_start_of_a_run_is_recorded_and_its_page_written(whole, tmp_path):
    workdir, _ = whole
    assert [start["step"] for start in read_starts(workdir)] == [0]
    page = write_report([workdir], tmp_path / "page.html").read_text("utf-8")
    assert "of 40" in page and "finished" in page
    assert page.count("data:image/png") >= 3  # curves, samples at steps 20 and 40


def test_sampling_a_run(whole, tmp_path):
    """Image 5 of ten is image 5 of a run that starts there, in batches of another size."""
    workdir, _ = whole
    experiment = from_workdir(workdir, ["sampling.grid.num_steps=7"])
    ten = run_sampling(restored(experiment, workdir), 10, 4, output=tmp_path / "ten")
    three = run_sampling(restored(experiment, workdir, average="none"), 3, 8, first_index=5, output=tmp_path / "three")
    again = run_sampling(restored(experiment, workdir), 3, 8, first_index=5, output=tmp_path / "again")
    assert ten.x.shape == (10, 2) and set(ten.nfe.tolist()) == {7}
    assert (tmp_path / "three" / "samples.png").is_file()  # points have a picture too, also while training
    assert sorted(path.name for path in (workdir / "samples").glob("*.png")) == [
        "step_00000020.png",
        "step_00000040.png",
    ]
    np.testing.assert_allclose(ten.x[5:8], again.x, rtol=1e-5, atol=1e-6)
    assert not np.allclose(three.x, again.x)  # raw parameters
    with np.load(tmp_path / "three" / "samples.npz") as file:
        assert file["index"].tolist() == [5, 6, 7] and np.array_equal(file["x"], three.x)


def test_measuring_a_run(whole):
    workdir, _ = whole
    overrides = ["likelihood.rtol=1e-3", "likelihood.atol=1e-3", "likelihood.batch_size=64"]
    experiment = from_workdir(workdir, overrides)
    bits = run_likelihood(restored(experiment, workdir), max_examples=100)
    assert bits.num_examples == 100 and bits.interval[0] < bits.mean < bits.interval[1]
    assert json.loads((workdir / "likelihood.json").read_text())["mean"] == bits.mean
    curve = run_noise_levels(restored(experiment, workdir))
    assert curve.num_examples == 300 and (workdir / "noise_levels.png").is_file()
    result = run_density(restored(experiment, workdir), num_samples=500, resolution=12)
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
        read_state(Experiment(config), workdir)
    with pytest.raises(FileNotFoundError, match=r"No checkpoint at step 7 in .*it has \[\d"):
        read_state(Experiment(tiny()), workdir, step=7)


def test_nothing_to_restore(tmp_path):
    with pytest.raises(FileNotFoundError, match="No checkpoint in"):
        read_state(Experiment(tiny()), tmp_path)
    with pytest.raises(FileNotFoundError, match=r"No config.json in .*train there first"):
        from_workdir(tmp_path)


def test_choice_of_average(whole):
    _, state = whole
    assert pick_params(state, None) is state.ema["0.5"]
    assert pick_params(state, "5") is state.ema["5"] is pick_params(state, "5.0")
    assert pick_params(state, "none") is state.params
    with pytest.raises(ValueError, match=r"\(--ema\) needs one of \['0.5', '5', 'none'\].*got '7'"):
        pick_params(state, "7")


def test_a_signal_saves_at_any_step_and_the_resumed_run_is_the_same(whole, tmp_path, monkeypatch, capsys):
    """SIGTERM in steps 13 and 27: no checkpoint or log line is due there."""
    workdir, state = whole
    update = Progress.update

    def signalled(self, step, scalars=None):
        update(self, step, scalars)
        if step in (13, 27):
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Progress, "update", signalled)
    first = run_training(Experiment(tiny()), tmp_path, quiet=True)
    assert int(first.step) == 13
    assert f"Stopped by SIGTERM after step 13 of 40; all of it is saved in {tmp_path}" in capsys.readouterr().out
    first = run_training(Experiment(tiny()), tmp_path, quiet=True)
    assert int(first.step) == 27 and "Stopped by SIGTERM after step 27 of 40" in capsys.readouterr().out
    assert bits(run_training(Experiment(tiny()), tmp_path, quiet=True)) == bits(state)
    assert (tmp_path / "metrics.jsonl").read_bytes() == (workdir / "metrics.jsonl").read_bytes()
    assert capsys.readouterr().out == ""


def test_several_processes_stop_only_where_they_agree(tmp_path, monkeypatch, capsys):
    """A Ctrl-C that one process hears before its first step does not end it while the others begin to train."""
    asked, write = [], Description.write

    def agreed(step):
        asked.append(step)
        return step == 3

    def interrupted(self, workdir):
        write(self, workdir)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(StopRequest, "_several", staticmethod(lambda: True))
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", agreed)
    monkeypatch.setattr(Description, "write", interrupted)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN), signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        state = run_training(Experiment(tiny()), tmp_path, quiet=True)
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])
    assert int(state.step) == 3 and asked[:4] == [0, 1, 2, 3]  # orbax asks too where it saves
    assert "Stopped by Ctrl-C after step 3 of 40" in capsys.readouterr().out


def test_a_finished_run_is_left_as_it_is(whole):
    workdir, state = whole
    before = {path: path.read_bytes() for path in workdir.glob("*.jsonl")}
    assert bits(run_training(Experiment(tiny()), workdir, quiet=True)) == bits(state)
    assert before == {path: path.read_bytes() for path in workdir.glob("*.jsonl")}


def test_half_written_files_of_killed_runs_are_deleted(whole):
    """And those of others, who may be sampling or measuring in the folder, are not."""
    workdir, _ = whole
    ours = [f".{name}.0123abcd.tmp" for name in ("config.json", "metrics.jsonl", "timing.jsonl")]
    ours.append("incidents/.step_00000007.json.0123abcd.tmp")
    theirs = [".likelihood.json.0123abcd.tmp", "samples/.x.npy.0123abcd.tmp"]
    for name in (*ours, *theirs):
        (workdir / name).parent.mkdir(exist_ok=True)
        (workdir / name).touch()
    run_training(Experiment(tiny()), workdir, quiet=True)
    assert sorted(path.relative_to(workdir).as_posix() for path in workdir.rglob("*.tmp")) == sorted(theirs)
    for name in theirs:
        (workdir / name).unlink()


def test_an_edited_log_is_told_and_does_not_stop_the_run(tmp_path, caplog):
    def run(num_steps):
        run_training(Experiment(tiny(num_steps=num_steps, eval_every=0, sample_every=0)), tmp_path, quiet=True)

    run(10)
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text().replace("0.", "1.", 1))
    run(20)
    assert "was edited, or lines of it are missing" in caplog.text
    caplog.clear()
    path.unlink()
    run(25)
    assert "was edited, or lines of it are missing" in caplog.text
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [25]
    path.write_text("rubbish\n")
    with pytest.raises(ValueError, match="the file was damaged or edited: delete that line, or move the file away"):
        run(30)


def test_a_run_that_cannot_write(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write in .*: File exists \(.*file\)"):
        run_training(Experiment(tiny()), tmp_path / "file", quiet=True)


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    run_training(Experiment(tiny(num_steps=10)), tmp_path, quiet=True)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(MetricLogger, "log", full)
    message = r"cannot write in .*No space left on device. Its checkpoints \(\[10\]\) are untouched; make room"
    with pytest.raises(OSError, match=message):
        run_training(Experiment(tiny()), tmp_path, quiet=True)
    assert int(read_state(Experiment(tiny()), tmp_path).step) == 10


def test_data_that_cannot_be_read_are_no_fault_of_the_workdir(tmp_path, monkeypatch):
    def refused(self, indices):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/data/images/7.png")

    experiment = Experiment(tiny())
    monkeypatch.setattr(type(experiment.train_source), "gather", refused)
    with pytest.raises(PermissionError, match=r"Permission denied: '/data/images/7.png'"):
        run_training(experiment, tmp_path, quiet=True)


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory):
    """Points of which two are so large that their loss is not a number, and how to make a config that reads them."""
    folder = tmp_path_factory.mktemp("spoilt")
    x = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32)
    x[[7, 170]] = 1e30
    np.savez(folder / "points.npz", x=x)

    def config(**training):
        config = tiny(**training)
        config.data.train = ConfigDict({"name": "array", "path": str(folder / "points.npz")})
        config.training.update({"eval_every": 0, "sample_every": 0})
        return config

    return config


def first_step_with(experiment, examples) -> int:
    """The number of the first step whose batch has one of the examples."""
    return next(n for n in range(40) if set(experiment.train_batches[n]["index"].tolist()) & set(examples)) + 1


def test_a_loss_that_is_not_finite_stops_the_run_at_that_step(spoilt, tmp_path):
    """What is written names the examples; the checkpoint before it is untouched, and is where the run goes on."""
    experiment = Experiment(spoilt(checkpoint_every=1, keep_checkpoints=3))
    step = first_step_with(experiment, (7, 170))
    with pytest.raises(
        FloatingPointError, match=f"of step {step} is not finite.*incidents.*last good checkpoint is"
    ) as error:
        run_training(experiment, tmp_path, quiet=True)
    assert f"step {step - 1}" in str(error.value) or step == 1
    report = json.loads((tmp_path / "incidents" / f"step_{step:08d}.json").read_text())
    batch = experiment.train_batches[step - 1]
    assert report["step"] == step and report["loss"] in ("NaN", "Infinity")
    rows = {row["index"]: row for row in report["examples"]}
    assert sorted(rows) == sorted(batch["index"].tolist())
    bad = [row["index"] for row in report["examples"] if isinstance(row["loss"], str)]
    assert bad and set(bad) <= {7, 170} and report["examples"][0]["index"] in bad
    for row in rows.values():
        np.testing.assert_allclose(row["log_snr"], experiment.sde.log_snr(float(row["t"])), rtol=1e-5, atol=1e-5)
    with pytest.raises(FloatingPointError, match=f"of step {step} is"):
        run_training(Experiment(spoilt(checkpoint_every=1)), tmp_path, quiet=True)


def test_batches_that_are_not_finite_can_be_left_out(spoilt, tmp_path):
    """They are counted, and a run that was stopped counts the same."""
    config = spoilt(nonfinite="skip")
    state = run_training(Experiment(config), tmp_path / "whole", quiet=True)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(state)))
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    batches = Experiment(config).train_batches
    expected = sum(bool({7, 170} & set(batches[n]["index"].tolist())) for n in range(40))
    assert sum(line.get("skipped", 0) for line in lines) == expected > 1
    assert all(np.isfinite(float(line["loss"])) for line in lines)
    run_training(Experiment(spoilt(nonfinite="skip", num_steps=20)), tmp_path / "cut", quiet=True)
    assert bits(run_training(Experiment(config), tmp_path / "cut", quiet=True)) == bits(state)
    assert (tmp_path / "cut" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


def test_too_many_skips_in_a_row_stop_the_run(tmp_path):
    config = tiny(nonfinite="skip", max_skips=3)
    config.optimizer.learning_rate, config.optimizer.clip_norm = 1e30, None
    with pytest.raises(FloatingPointError, match="and 4 steps in a row were skipped;.*lower optimizer.learning_rate"):
        run_training(Experiment(config), tmp_path, quiet=True)
    with pytest.raises(ValueError, match="config.training.nonfinite needs one of 'stop', 'skip', got 'ignore'"):
        run_training(Experiment(tiny(nonfinite="ignore")), tmp_path / "other", quiet=True)


def test_parameters_that_are_not_finite_are_not_saved(tmp_path):
    """A finite loss and gradient, and a step beyond float32: the checkpoint before it stays the newest."""
    run_training(Experiment(tiny(num_steps=10)), tmp_path, quiet=True)
    experiment = Experiment(tiny(checkpoint_every=1))
    experiment.__dict__["optimizer"] = optimizer_of(
        sections.Optimizer(learning_rate=1e39, schedule=Schedule(warmup_steps=10))  # which no config may say
    )
    with pytest.raises(
        FloatingPointError, match="after step 11 is not finite, so it was not saved.* checkpoint is step 10"
    ):
        run_training(experiment, tmp_path, quiet=True)
    assert int(read_state(Experiment(tiny()), tmp_path).step) == 10


@pytest.mark.slow
def test_times_and_a_trace_of_chosen_steps(whole, tmp_path):
    workdir, _ = whole
    timing = read_metrics(workdir / "timing.jsonl")
    assert timing["step_seconds"].steps.tolist() == list(range(5, 41, 5)) and timing[
        "compile_seconds"
    ].steps.tolist() == [5]
    assert {"images_per_second", "data_wait", "flops_per_second", "checkpoint_seconds"} < timing.keys()
    run_training(
        Experiment(tiny(num_steps=4, eval_every=0, sample_every=0)), tmp_path, quiet=True, profile_steps=(2, 4)
    )
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_a_second_run_in_the_folder_is_refused(whole):
    """And changes nothing; reading is allowed beside it."""
    workdir, state = whole
    with RunLock(workdir):
        with pytest.raises(OSError, match=r"Another run \(host .* is training in .*; wait for it or stop it"):
            run_training(Experiment(tiny(num_steps=50)), workdir, quiet=True)
        assert bits(read_state(Experiment(tiny()), workdir)) == bits(state)


@pytest.mark.slow
def test_a_trained_density_is_the_density(tmp_path):
    """Of a mixture of Gaussians: the learned log-density, and the exact one at samples, against those of held-out points."""
    config = density2d.get_config("gaussian_mixture")
    config.likelihood.update({"rtol": 1e-4, "atol": 1e-4})
    run_training(Experiment(config), tmp_path, quiet=True)
    result = run_density(load(tmp_path), num_samples=2000, resolution=12)
    assert abs(result["kl"]) < 0.01 + 3 * result["kl_standard_error"]
    # One sample in 200 lies between the modes, where the log-density is about −25.
    assert abs(result["samples_exact"] - result["held_out_exact"]) < 0.25
