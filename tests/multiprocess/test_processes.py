"""Two processes with two devices each, started by flags, do what one device does."""

import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from configs import density2d
from score_sde.experiment import Experiment
from score_sde.run_config import apply_override
from score_sde.runs import run_training
from tests.multiprocess.launch import ROOT, config_flags, coordinator, launch

TINY = {
    "network.width": 64,
    "network.depth": 1,
    "data.train.num_examples": 300,
    "data.eval.num_examples": 300,
    "training.batch_size": 32,
    "training.eval_batch_size": 50,
    "training.log_every": 1,
    "training.checkpoint_every": 10,
    "training.eval_every": 10,
    "training.num_steps": 20,
    "sampling.grid.num_steps": 10,
    "likelihood.rtol": 1e-3,
    "likelihood.atol": 1e-3,
    "likelihood.batch_size": 20,
}
DIVIDED = {"mesh.fsdp": 2}


@pytest.fixture(autouse=True, scope="module")
def ordinary_promotion():
    """Optax counts steps in integers and raises floats to them, which strict promotion forbids."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def tiny(num_steps=20, **mesh) -> Experiment:
    config = density2d.get_config("moons")
    for name, value in TINY.items():
        apply_override(config, f"{name}={value}")
    config.mesh.update(mesh)
    config.training.num_steps = num_steps
    return Experiment(config)


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def assert_same(some, others):
    """The same lines in the same order; numbers but for the order of sums."""
    assert [list(line) for line in some] == [list(line) for line in others]
    for one, other in zip(some, others, strict=True):
        np.testing.assert_allclose(list(one.values()), list(other.values()), rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The workdir of two processes, with the parameters divided over pairs of devices, and what they said."""
    workdir = tmp_path_factory.mktemp("together")
    flags = ["--config=configs/density2d.py", f"--workdir={workdir}", *config_flags(TINY | DIVIDED)]
    return workdir, launch("experiments.train", flags)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The workdir of one process with one device."""
    workdir = tmp_path_factory.mktemp("alone")
    run_training(tiny(num_devices=1), workdir, quiet=True)
    return workdir


def test_two_processes_train_and_evaluate_as_one(together, alone):
    """Every step's loss, and the held-out loss by noise level at steps 10 and 20, each once."""
    steps = [line["step"] for line in lines(together[0])]
    assert steps == sorted([*range(1, 21), 10, 20])
    assert_same(lines(together[0]), lines(alone))


def test_only_the_first_process_speaks(together):
    first, second = together[1]
    assert "20/20" in first.stderr and "20/20" not in second.stderr + second.stdout


@pytest.mark.slow
def test_their_checkpoint_goes_on_on_one_device(together, alone, tmp_path):
    """Ten more steps on the same examples."""
    for name, source in (("from_two", together[0]), ("from_one", alone)):
        shutil.copytree(source, tmp_path / name)
        state = run_training(tiny(num_steps=30, num_devices=1), tmp_path / name, quiet=True)
        assert int(state.step) == 30
    assert_same(lines(tmp_path / "from_two"), lines(tmp_path / "from_one"))


@pytest.mark.parametrize("index", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_others_that_do_not_come(tmp_path, index):
    """One line that says what to do, within the time given: process 1 finds no coordinator, process 0 nobody else."""
    address = coordinator()
    flags = [
        f"--coordinator_address={address}",
        "--num_processes=2",
        f"--process_id={index}",
        "--coordinator_timeout=1",
    ]
    command = [
        sys.executable,
        "-m",
        "experiments.train",
        "--config=configs/density2d.py",
        f"--workdir={tmp_path}",
        *flags,
    ]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == 1, run.stderr
    assert f"Error: Process {index} of 2 did not meet the others at {address} within 1 s" in run.stderr
    assert "stack trace" not in run.stderr


@pytest.mark.slow
def test_two_processes_measure_as_one(together, tmp_path):
    """Loss by noise level and bits/dim through the entry point."""
    numbers = {}
    for number, devices in ((1, 1), (2, 2)):
        workdir = tmp_path / str(number)
        shutil.copytree(together[0], workdir)
        sets = [] if number == 2 else ["--set=mesh.fsdp=1"]
        launch("experiments.evaluate", [f"--workdir={workdir}", "--max_examples=60", *sets], number, devices)
        curve = json.loads((workdir / "noise_levels.json").read_text())
        bits = json.loads((workdir / "likelihood.json").read_text())
        numbers[number] = [*curve["mean"], *curve["standard_error"], bits["mean"], *bits["interval"], bits["nfe"]]
    np.testing.assert_allclose(numbers[2], numbers[1], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_two_processes_sample_as_one(together, tmp_path):
    images = {}
    for number, devices in ((1, 1), (2, 2)):
        sets = [] if number == 2 else ["--set=mesh.fsdp=1"]
        flags = [f"--workdir={together[0]}", f"--output={tmp_path / str(number)}", "--num_samples=20", "--batch_size=8"]
        launch("experiments.sample", [*flags, *sets], number, devices)
        with np.load(tmp_path / str(number) / "samples.npz") as file:
            images[number] = file["x"]
    assert images[1].shape == (20, 2)
    np.testing.assert_allclose(images[2], images[1], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_their_checkpoint_goes_on_on_eight_devices(together, alone, tmp_path):
    """With the parameters divided over all eight."""
    for name, source, fsdp, devices in (("eight", together[0], 8, 8), ("one", alone, 1, 1)):
        shutil.copytree(source, tmp_path / name)
        flags = ["--config=configs/density2d.py", f"--workdir={tmp_path / name}"]
        fields = TINY | {"mesh.fsdp": fsdp, "training.num_steps": 30}
        launch("experiments.train", [*flags, *config_flags(fields)], 1, devices)
    assert_same(lines(tmp_path / "eight"), lines(tmp_path / "one"))


@pytest.mark.slow
def test_two_processes_train_a_unet_as_one(tmp_path):
    """Images and labels, kernels divided over four devices of two processes, two parts a batch."""
    fields = TINY | {
        "network.channels": 24,
        "network.channel_multipliers": "(1,)",
        "network.attention_resolutions": "()",
        "training.eval_every": 0,
        "training.batch_size": 16,
        "optimizer.accumulation_steps": 2,
    }
    fields = {
        name: value for name, value in fields.items() if not name.startswith(("network.wi", "network.de", "data"))
    }
    for name, number, devices, fsdp in (("two", 2, 2, 4), ("one", 1, 1, 1)):
        flags = ["--config=configs/quickstart.py", f"--workdir={tmp_path / name}", *config_flags(fields)]
        launch("experiments.train", [*flags, f"--config.mesh.fsdp={fsdp}"], number, devices)
    assert_same(lines(tmp_path / "two"), lines(tmp_path / "one"))
