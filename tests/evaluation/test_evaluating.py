"""An evaluation gives the same number for all batches, devices and interruptions, and leaves a row that repeats it."""

import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from experiments.results import run_all_checkpoints, run_evaluation, run_sampling
from score_sde.evaluation.checkpoint_curve import checkpoint_steps
from score_sde.evaluation.ledger import read_rows
from score_sde.evaluation.references import load_reference
from score_sde.evaluation.request import Evaluation
from score_sde.experiment import Experiment
from score_sde.metrics import FeatureStatistics
from score_sde.plots.scores import metric_curves
from score_sde.run_config import from_workdir
from score_sde.runs import pick_params, read_state
from score_sde.trained import load, restored
from tests.evaluation.evaluated import digits, points, save
from tests.multiprocess.launch import launch

FD = Evaluation(("fid",), num_samples=50, batch_size=16, features="pixels")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Two checkpoints of a model of points."""
    folder = tmp_path_factory.mktemp("points")
    save(points(), folder, steps=(10, 20))
    return folder


@pytest.fixture
def copy(workdir, tmp_path):
    """The same without what an evaluation leaves."""
    for name in ("config.json", "checkpoints"):
        (tmp_path / name).symlink_to(workdir / name)
    return tmp_path


def evaluate(workdir, evaluation=FD, checkpoint=None, overrides=()):
    overrides = ("mesh.num_devices=1", *overrides)
    experiment = from_workdir(workdir, overrides)
    trained = restored(experiment, workdir, checkpoint, evaluation.ema)
    return run_evaluation(trained, evaluation._replace(overrides=overrides), quiet=True)


def value(row, name="fd"):
    return row["results"][name]["value"]


def test_the_number_is_that_of_the_images(copy):
    """Against images drawn at once, seed by seed; rows say what was done."""
    row = evaluate(copy, FD._replace(seeds=(0, 2)), overrides=["sampling.grid.num_steps=7"])
    experiment = from_workdir(copy, ["sampling.grid.num_steps=7", "mesh.num_devices=1"])
    params, source = pick_params(read_state(experiment, copy), None), experiment.train_source
    data = FeatureStatistics.of(source.gather(np.arange(300))["x"])
    for seed in (0, 2):
        x = experiment.generator(experiment.run_key("sample"), params, 50, 50, 50 * seed).x
        wanted = FeatureStatistics.of(x).frechet_distance(data)
        np.testing.assert_allclose(row["results"]["fd"]["values"][str(seed)], wanted, rtol=1e-4)
    assert row["nfe"] == 7 and row["step"] == 20 and row["training_images"] == 640 and row["images_drawn"] == 100
    assert row["reference"]["count"] == 300 and row["sampling"]["grid"]["num_steps"] == 7
    assert "fd is of 50 samples, and published numbers are of 50,000" in row["warnings"][0]
    assert json.loads((copy / "ledger.jsonl").read_text()) == row
    assert evaluate(copy, FD._replace(reference="eval"))["reference"]["count"] == 120


def test_stopped_after_a_part_and_resumed(workdir, copy, monkeypatch):
    """The parts that are there are not drawn again, and every number has the same bits."""
    wanted, drawn, draw = evaluate(workdir), [], type(from_workdir(workdir).generator).batch

    def counted(self, key, params, batch_size, first_index=0, count=None):
        if len(drawn) == 2:
            drawn.append(None)
            raise KeyboardInterrupt
        drawn.append(first_index)
        return draw(self, key, params, batch_size, first_index, count)

    monkeypatch.setattr(type(from_workdir(workdir).generator), "batch", counted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(copy)
    assert not (copy / "ledger.jsonl").exists()
    row = evaluate(copy)
    assert drawn == [0, 16, None, 32, 48] and row["results"] == wanted["results"] and row["images_drawn"] == 18
    assert evaluate(copy)["results"] == wanted["results"] and len(drawn) == 5  # nothing is left to draw


def test_batches_change_nothing(workdir):
    one, kept = evaluate(workdir), set((workdir / "evaluations").glob("*"))
    other = evaluate(workdir, FD._replace(batch_size=50, keep_features=False))
    assert one["reference"]["digest"] == other["reference"]["digest"]
    np.testing.assert_allclose(value(one), value(other), rtol=1e-4)
    assert set((workdir / "evaluations").glob("*")) == kept  # keep_features=False left nothing


@pytest.mark.slow
def test_no_batch_is_larger_than_what_is_asked_for(copy, monkeypatch):
    """Four samples are not drawn as 64, nor four held-out examples measured as 128."""
    sizes, draw, read = [], type(from_workdir(copy).generator).batch, Experiment.eval_batches

    def drawn(self, key, params, batch_size, *rest):
        sizes.append(batch_size)
        return draw(self, key, params, batch_size, *rest)

    def held_out(self, batch_size, max_examples=None, **options):
        sizes.append(batch_size)
        return read(self, batch_size, max_examples, **options)

    monkeypatch.setattr(type(from_workdir(copy).generator), "batch", drawn)
    monkeypatch.setattr(Experiment, "eval_batches", held_out)
    metrics = ("fid", "noise_levels", "bits_per_dim")
    row = evaluate(copy, FD._replace(metrics=metrics, num_samples=4, batch_size=64, max_examples=4))
    assert row["results"]["bits_per_dim"]["num_examples"] == row["results"]["noise_levels"]["num_examples"] == 4
    assert set(sizes) == {1, 4}  # 1 describes the data
    run_sampling(load(copy, overrides=["mesh.num_devices=1"]), 3, 64)
    assert sizes[-1] == 3


def test_bootstrap_as_asked_for(workdir):
    """Another number of resamples changes the interval alone, and the row's command asks for it again."""
    usual, other = evaluate(workdir), evaluate(workdir, FD._replace(bootstrap=40))
    assert value(usual) == value(other) and usual["results"]["fd"]["interval"] != other["results"]["fd"]["interval"]
    assert "40 bootstrap resamples" in other["results"]["fd"]["note"] and "--bootstrap=40" in other["command"]


@pytest.mark.slow
def test_all_checkpoints_by_one_command(copy, capsys):
    evaluation = FD._replace(metrics=("fd", "noise_levels"))
    experiment = from_workdir(copy)
    rows = run_all_checkpoints(experiment, copy, evaluation, quiet=True)
    assert checkpoint_steps(copy) == [row["step"] for row in rows] == [10, 20] and value(rows[0]) != value(rows[1])
    assert (copy / "checkpoints_fd.png").is_file() and (copy / "checkpoints_noise_levels.png").is_file()
    assert "--checkpoint=10 --metrics=fid,noise_levels" in rows[0]["command"]
    again = run_all_checkpoints(experiment, copy, evaluation, quiet=True)
    assert again == rows and len(read_rows([copy])[0]) == 2 and "fd of 2 checkpoints in" in capsys.readouterr().out


def test_nothing_to_evaluate_or_to_draw(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No checkpoint in .*train there first"):
        checkpoint_steps(tmp_path)
    with pytest.raises(ValueError, match=r"metric_curves needs at least one curve, got none"):
        metric_curves({}, tmp_path / "a.png", "x", "y")


def test_memorization_kid_and_prdc_of_points(workdir):
    row = evaluate(workdir, FD._replace(metrics=("kid", "prdc", "memorization")))
    assert {"kd", "precision", "recall", "prdc_density", "coverage", "memorization"} == row["results"].keys()
    assert len(row["results"]["memorization"]["closest"]) == 8


@pytest.mark.slow
def test_digits_with_pictures(tmp_path):
    """Images that are kept are those that were featurized, as a PNG each; the closest pairs are drawn."""
    save(digits(), tmp_path)
    evaluation = Evaluation(("fid", "memorization"), 20, (1,), 8, features="oriented_gradients", keep_samples="png")
    row = evaluate(tmp_path, evaluation)
    (folder,) = (tmp_path / "evaluations").iterdir()
    images = [np.asarray(Image.open(path)) for path in sorted((folder / "samples_png").rglob("*.png"))]
    experiment = from_workdir(tmp_path)
    params = pick_params(read_state(experiment, tmp_path), None)
    x = experiment.generator(experiment.run_key("sample"), params, 20, 8, 20).x
    assert np.array_equal(np.stack(images), experiment.spec.image_u8(x)[..., 0])
    assert (tmp_path / "memorization_00000000_seed1.png").is_file() and value(row) > 0
    assert all(20 <= pair["sample"] < 40 for pair in row["results"]["memorization"]["closest"])


@pytest.mark.few(4)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": ("fid", "fud")}, r"--metrics needs names among .*got \['fud'\]"),
        ({"metrics": ()}, r"--metrics needs names among .*got none"),
        ({"bootstrap": 20}, r"--bootstrap needs 40 resamples or more .* got 20"),
        ({"bootstrap": 100, "metrics": ("kid",)}, r"--bootstrap is for fid and sfid, got --metrics=kid"),
        ({"bootstrap": 100, "seeds": (0, 1)}, r"--bootstrap is of one seed's samples, got --seeds=0,1"),
        ({"seeds": (0, 0)}, r"--seeds needs different numbers s >= 0 .*got \[0, 0\]"),
        ({"seeds": (60_000_000,)}, r"\(s \+ 1\) · num_samples <= 2³¹"),
        ({"num_samples": 1}, r"needs num_samples >= 2 and batch_size >= 1"),
        ({"metrics": ("is",)}, r"have no 'logits'"),
        ({"metrics": ("sfid",)}, r"have no 'spatial'"),
        (
            {"keep_samples": "png"},
            r"--keep_samples=png needs images \[h, w, 1 or 3\] of at most 256 levels, got shape \(2,\)",
        ),
        ({"keep_samples": "gif"}, r"--keep_samples needs png or npz, got 'gif'"),
    ],
)
def test_what_is_refused(workdir, change, message):
    with pytest.raises(ValueError, match=message):
        evaluate(workdir, FD._replace(**change))


def test_a_sample_that_is_not_finite(workdir, monkeypatch):
    generator = type(from_workdir(workdir).generator)
    draw = generator.batch

    def broken(self, *arguments):
        part = draw(self, *arguments)
        return part._replace(x=np.where(np.arange(len(part.x))[:, None] == 3, np.float32(np.nan), part.x))

    monkeypatch.setattr(generator, "batch", broken)
    with pytest.raises(FloatingPointError, match=r"Image 3 is not finite \(1 in this batch\).*--dtype=float32"):
        evaluate(workdir, FD._replace(num_samples=10, batch_size=10))


def run(workdir, *options, devices=1):
    """The command, in a process of its own with so many virtual devices."""
    words = [
        "--metrics=fid,kid",
        "--num_samples=48",
        "--batch_size=16",
        "--features=pixels",
        f"--set=mesh.num_devices={devices}",
    ]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices)}
    command = [sys.executable, "-m", "experiments.evaluate", f"--workdir={workdir}", *words, *options]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_eight_devices_give_the_number_of_one(copy):
    output, errors = run(copy, devices=8).communicate(timeout=900)
    (row,), _ = read_rows([copy])
    assert row.values["hardware"].startswith("8 ×"), output + errors
    here = evaluate(copy, FD._replace(metrics=("fid", "kid"), num_samples=48))
    for name in ("fd", "kd"):
        np.testing.assert_allclose(value(row.values, name), value(here, name), rtol=1e-4, atol=1e-7)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """What two processes of two devices leave, and what they say; nothing but their shared folder."""
    folder = tmp_path_factory.mktemp("two")
    save(digits(), folder)
    words = ["--metrics=fid,kid,memorization", "--num_samples=40", "--batch_size=12", "--features=oriented_gradients"]
    words += [f"--workdir={folder}", "--set=mesh.num_devices=None", "--nokeep_features", "--solver=ddim(eta=0.5)"]
    return folder, launch("experiments.evaluate", words)


@pytest.mark.slow
def test_two_processes_give_the_number_of_one(two_processes, tmp_path):
    """One row, by the first; the same picture of the closest pairs; the features are gone as asked."""
    folder, (first, second) = two_processes
    (row,), _ = read_rows([folder])
    assert row.values["hardware"].startswith("4 ×") and "\nfd " in first.stdout
    said = [line for line in first.stdout.splitlines() if line.startswith(("fd ", "kd ", "memorization ", "Warning: "))]
    assert len(said) > 3 and not any(line in second.stdout for line in said)  # beside Gloo's lines, which may be cut
    save(digits(), tmp_path)
    evaluation = Evaluation(("fid", "kid", "memorization"), 40, (0,), 12, features="oriented_gradients")
    here = evaluate(tmp_path, evaluation, overrides=["sampling.solver={'name': 'ddim', 'eta': 0.5}"])
    assert row.values["sampling"] == here["sampling"] and here["sampling"]["solver"] == {"name": "ddim", "eta": 0.5}
    assert here["command"].count("--set=") == 2 and "eta" in row.values["command"]
    for name in ("fd", "kd", "memorization"):
        np.testing.assert_allclose(value(row.values, name), value(here, name), rtol=1e-4, atol=1e-7)
    assert row.values["reference"]["digest"] == here["reference"]["digest"]
    pictures = [np.asarray(Image.open(f / "memorization_00000000_seed0.png")) for f in (folder, tmp_path)]
    assert np.abs(pictures[0].astype(int) - pictures[1]).max() <= 1
    assert not list((folder / "evaluations").iterdir()) and not list(folder.rglob("*.tmp"))


@pytest.mark.slow
def test_two_processes_make_the_reference_of_one(tmp_path):
    flags = ["--config=configs/quickstart.py", "--split=eval", "--features=oriented_gradients", "--keep_features"]
    for number, devices in ((2, 2), (1, 1)):
        said = launch("experiments.reference", [*flags, f"--output={tmp_path / str(number)}.npz"], number, devices)
        assert ["297 images" in process.stdout for process in said] == [True, False][:number]
    two, one = (load_reference(tmp_path / f"{number}.npz") for number in (2, 1))
    assert two.digest == one.digest and np.array_equal(two.features, one.features)
    np.testing.assert_allclose(two.statistics["pool"].cov, one.statistics["pool"].cov, rtol=0, atol=1e-12)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.npz", "2.npz"]


@pytest.mark.slow
def test_killed_and_the_command_of_the_row(copy, workdir):
    """SIGKILL when the first parts are there; then the command that the ledger gives."""
    process, parts = run(copy), pathlib.Path(copy) / "evaluations"
    while process.poll() is None and not list(parts.glob("*/part_*.npz")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (copy / "ledger.jsonl").exists()
    run(copy).communicate(timeout=900)
    (row,), _ = read_rows([copy])
    wanted = evaluate(workdir, FD._replace(metrics=("fid", "kid"), num_samples=48))
    assert row.values["results"] == wanted["results"]
    command = shlex.split(row.values["command"])
    subprocess.run([sys.executable, *command[1:]], check=True, env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"})
    rows, _ = read_rows([copy])
    assert len(rows) == 2 and rows[1].values["command"] == row.values["command"]
    assert rows[1].values["results"] == rows[0].values["results"]
