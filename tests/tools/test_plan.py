"""Plans: FLOPs against a count by hand, bytes against the shapes, and advice for runs that do not fit."""

import json
import math
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import density2d, quickstart
from score_sde import parallel
from score_sde.experiment import Experiment
from score_sde.tools.accelerators import ACCELERATORS, find_accelerator
from score_sde.tools.plan import Blank, advice, as_table, experiment_on, flops_per_image, make_plan, number_of_devices


@pytest.fixture(autouse=True)
def ordinary_promotion():
    """Optax counts steps in integers and raises floats to them, which strict promotion forbids."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def small(channels=16, **network) -> ConfigDict:
    """A U-Net with one level, without attention but in the middle, on 8×8 digits."""
    config = quickstart.get_config()
    config.network.update({"channels": channels, "channel_multipliers": (1,), "attention_resolutions": (), **network})
    config.training.batch_size = 16
    return config


def products_by_hand(channels: int, side: int = 8, classes: int = 10) -> int:
    """Two FLOPs for each multiplication of a weight or an attention product, layer by layer, for one image."""
    c, pixels = channels, side * side
    taps = (3 * side - 2) ** 2  # the products of a 3×3 kernel with an image that do not meet the border's zeros

    def conv(inputs, outputs):
        return taps * inputs * outputs

    def block(inputs):
        return conv(inputs, c) + conv(c, c) + 4 * c * c + (pixels * inputs * c if inputs != c else 0)

    embedding = c * 4 * c + 4 * c * 4 * c
    attention = pixels * c * 3 * c + 2 * pixels**2 * c + pixels * c * c
    encoder, middle, decoder = block(c), 2 * block(c) + attention, 2 * block(2 * c)
    return 2 * (embedding + conv(1, c) + encoder + middle + decoder + conv(c, 1))


def test_flops_are_those_of_a_count_by_hand():
    """Elementwise work comes on top: 1.3 % of the products of 64 channels, and less the wider it gets.

    What the backward pass computes again is counted apart.
    """
    experiment = Experiment(small(channels=64, remat="blocks"))
    with jax.default_matmul_precision("highest"):  # convolutions as direct sums, as a plan counts them
        flops = flops_per_image(experiment, experiment.recipe.state_shapes(), experiment.recipe.batch_shapes())
    assert 1 <= flops["forward"] / products_by_hand(64) < 1.03
    assert 2.95 < flops["training_step"] / flops["forward"] < 3.1  # backward: twice the products, and the optimizer
    assert 1.1 < flops["training_step_with_recomputation"] / flops["training_step"] < 1.4


@pytest.mark.slow
def test_a_plan_on_one_device(capsys):
    """Bytes of the state are those of the arrays; rate and time follow from FLOPs, peak and utilization."""
    config = density2d.get_config()
    config.training.update({"num_steps": 1000, "batch_size": 16})
    config.network.width = 64
    experiment = experiment_on(config, 1)
    plan = make_plan(experiment, find_accelerator("v5e"), 0.5)
    state, memory = experiment.recipe.init_state(), plan["bytes_per_device"]
    for name, tree in {"parameters": state.params, "averages": state.ema}.items():
        assert memory[name] == sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
    assert memory["optimizer"] == sum(leaf.nbytes for leaf in jax.tree.leaves((state.opt_state, state.step)))
    assert memory["batch"] == 16 * (2 * 4 + 4) and memory["temporaries"] > 16 * 64 * 3 * 4
    assert plan["run"]["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(state.params))
    rate = 0.5 * 197e12 / plan["flops_per_image"]["training_step"]
    assert math.isclose(plan["speed"]["images_per_second"], rate)
    assert math.isclose(plan["speed"]["seconds_for_all_steps"], 16 * 1000 / rate)
    assert plan["advice"] == [] and json.loads(json.dumps(plan)) == plan
    table = as_table(plan)
    assert "estimate: XLA's CPU compiler" in table and "TPU v5e, 197 TFLOP/s" in table and "1,000 steps" in table
    little = find_accelerator("v5e")._replace(memory_gb=0.001)
    told = as_table({**plan, "advice": advice(plan["run"], memory, little)})
    assert "does not fit" in told and "mesh.fsdp=2" in told and "network.remat" not in told


def test_what_helps_when_it_does_not_fit():
    """A large state asks for fsdp first; large activations for bfloat16, recomputation and smaller parts."""
    run = {"mesh": {"data": 4, "fsdp": 1, "tensor": 1}, "dtype": "float32", "remat": "none"}
    run |= {"batch_size": 64, "accumulation_steps": 1}
    memory = {"parameters": 10e9, "averages": 10e9, "optimizer": 20e9, "batch": 1e6, "available": 32e9}
    heavy_state = advice(run, memory | {"temporaries": 5e9, "total": 45e9}, ACCELERATORS["v6e"])
    assert "45.0 GB" in heavy_state[0] and heavy_state[1].startswith("mesh.fsdp=2 or more divides the state of 40.0 GB")
    small_state = memory | {"parameters": 1e8, "averages": 1e8, "optimizer": 2e8, "temporaries": 45e9, "total": 45e9}
    lines = advice(run, small_state, ACCELERATORS["v6e"])
    assert [line.split("=")[0].split()[0] for line in lines[1:4]] == [
        "network.dtype",
        "network.remat",
        "optimizer.accumulation_steps",
    ]
    assert not any("fsdp" in line for line in lines)
    assert advice(run, small_state | {"total": 28e9}, ACCELERATORS["v6e"]) == []


def test_data_that_are_not_there():
    """A shape stands in for them; without one, the message says so."""
    config = small()
    config.data.train = ConfigDict({"name": "folder", "path": "/nowhere"})
    with pytest.raises(FileNotFoundError, match=r"give --shape=H,W,C \(and --num_classes"):
        experiment_on(config, 1)
    experiment = experiment_on(config, 1, (8, 8, 1), 10)
    shapes = experiment.recipe.batch_shapes()
    sizes = jax.tree.map(lambda like: like.shape, shapes)
    assert sizes == {"x": (16, 8, 8, 1), "index": (16,), "condition": {"label": (16,)}, "observation": {}}
    known = experiment_on(small(), 1).recipe.batch_shapes()
    assert jax.tree.map(lambda like: (like.shape, like.dtype), shapes) == jax.tree.map(
        lambda like: (like.shape, like.dtype), known
    )
    config.network.embedding_dim = 5
    conditions = experiment_on(config, 1, (8, 8, 1)).recipe.batch_shapes()["condition"]  # those that the network takes
    assert {name: like.shape for name, like in conditions.items()} == {"label": (16,), "embedding": (16, 5)}
    assert Blank((4,)).spec.num_classes is None and parallel.batch_shards(experiment.mesh) == 1


def test_number_of_devices():
    config = small()
    assert number_of_devices(config) == 1
    config.mesh.update({"data": 4, "fsdp": 2})
    assert number_of_devices(config) == 8
    config.mesh.num_devices = 16
    assert number_of_devices(config) == 16


def test_errors():
    experiment = experiment_on(small(), 1)
    with pytest.raises(ValueError, match=r"--mfu needs 0 < mfu <= 1, got 40"):
        make_plan(experiment, ACCELERATORS["h100"], 40.0)
    with pytest.raises(ValueError, match=r"--accelerator needs one of .*got 'h10'.*Did you mean 'h100'"):
        find_accelerator("h10")


def command(*arguments):
    environment = {name: value for name, value in os.environ.items() if name != "JAX_NUM_CPU_DEVICES"}
    config = f"--config={quickstart.__file__}"
    return subprocess.run(
        [sys.executable, "-m", "experiments.plan", config, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_command_on_a_mesh():
    """Eight virtual devices: a quarter of the large arrays on each, and an eighth of the batch."""
    network = ["--config.network.channels=64", "--config.mesh.fsdp=4", "--devices=8", "--json"]
    run = command(*network, "--peak_tflops=100", "--memory_gb=0.001")
    assert run.returncode == 0, run.stderr[-2000:]
    plan = json.loads(run.stdout)
    memory, parameters = plan["bytes_per_device"], 4 * plan["run"]["parameters"]
    assert plan["run"]["mesh"] == {"data": 2, "fsdp": 4, "tensor": 1}
    assert 0.25 < memory["parameters"] / parameters < 0.3 and memory["batch"] == 8 * (64 * 4 + 4 + 4)
    assert plan["speed"]["accelerator"]["bf16_tflops"] == 100 and plan["advice"]
    np.testing.assert_allclose(memory["optimizer"], 2 * memory["parameters"], rtol=1e-3)
