"""Devices and sharding, on several virtual CPU devices in a process of their own."""

import json
import subprocess
import sys

import pytest

from score_sde import parallel

PROGRAM = """
import json, jax
jax.config.update("jax_num_cpu_devices", 8)
import numpy as np
from score_sde import parallel
from configs import density2d
from score_sde.experiment import Experiment
from score_sde.runs import run_training, loss_by_noise_level
import pathlib, sys

sizes = {n: parallel.mesh_for_batch(n).size for n in (1, 7, 12, 16, 30, 32, 64, 128)}
losses, images = {}, {}
for number in (1, 8):
    config = density2d.get_config("moons")
    config.network.update({"width": 16, "depth": 1})
    config.data.train.num_examples = config.data.eval.num_examples = 300
    config.training.update({"num_steps": 20, "batch_size": 32, "log_every": 1, "checkpoint_every": 20})
    config.training.num_devices = number
    config.training.eval_batch_size = 50
    config.sampling.grid.num_steps = 10
    experiment = Experiment(config)
    workdir = pathlib.Path(sys.argv[1]) / str(number)
    state = run_training(experiment, workdir, quiet=True)
    losses[number] = [json.loads(line)["loss"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    images[number] = experiment.generator(experiment.run_key("sample"), state.params, 20).x
    curve = loss_by_noise_level(experiment, state.params)
gaps = np.abs(np.subtract(losses[1], losses[8]))
print(json.dumps({
    "sizes": sizes, "steps": len(gaps), "loss_gap": float(gaps.max()),
    "devices": len(jax.tree.leaves(state.params)[0].devices()),
    "image_gap": float(np.abs(images[1] - images[8]).max()), "examples": curve.num_examples,
}))
"""


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eight")
    run = subprocess.run([sys.executable, "-c", PROGRAM, str(folder)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


def test_eight_devices_train_as_one_does(eight):
    """The loss of 20 steps: the order of sums is the only difference."""
    assert eight["steps"] == 20 and eight["loss_gap"] < 1e-5 and eight["devices"] == 8


def test_an_image_is_the_same_on_eight_devices(eight):
    """Up to the parameters' own difference after 20 steps."""
    assert eight["image_gap"] < 1e-3


def test_evaluation_on_eight_devices_sees_every_example_once(eight):
    """300 examples in batches of 50, rounded up to 56."""
    assert eight["examples"] == 300


def test_the_mesh_shares_the_batch_evenly(eight):
    assert eight["sizes"] == {"1": 1, "7": 1, "12": 3, "16": 4, "30": 6, "32": 8, "64": 8, "128": 8}


def test_errors():
    mesh = parallel.make_mesh(1)
    parallel.check_batch_size(3, mesh)
    assert parallel.round_up(5, mesh) == 5
    with pytest.raises(ValueError, match="The mesh needs 1 <= num_devices <= "):
        parallel.make_mesh(0)
