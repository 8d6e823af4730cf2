"""The same 20 steps, evaluation and samples on meshes of eight virtual devices, into a file of JSON.

python -m tests.multiprocess.eight_devices FILE, in a process of its own: the number of devices is fixed when JAX starts.
"""

import json
import math
import pathlib
import sys
from unittest import mock

import jax
import numpy as np
from ml_collections import ConfigDict

from configs import density2d
from score_sde import parallel
from score_sde.experiment import Experiment
from score_sde.likelihood import density
from score_sde.runs import held_out_bits_per_dim, loss_by_noise_level
from score_sde.runs.measures import held_out_batches
from score_sde.solvers import loop

MESHES = {
    "one": {"num_devices": 1},
    "data8": {"data": 8},
    "data4_fsdp2": {"data": 4, "fsdp": 2},
    "fsdp8": {"fsdp": 8},
    "data2_fsdp2_tensor2": {"data": 2, "fsdp": 2, "tensor": 2},
    "data4_parts4": {"data": 4, "accumulation_steps": 4},
}
MEASURED = ("one", "data2_fsdp2_tensor2")
# Of the second task.
CLASSIFIED = {name: MESHES[name] for name in ("one", "data2_fsdp2_tensor2")} | {"data2": {"num_devices": 2}}
LARGE = 4096  # numbers, of arrays that fsdp divides


def experiment_on(accumulation_steps: int = 1, task: str = "denoising", **mesh: int) -> Experiment:
    """Points by an MLP that is wide enough for its kernels to be divided: a denoiser, or a classifier of the two moons."""
    config = density2d.get_config("moons")
    if task == "classification":
        config.task, config.objective = ConfigDict({"name": task}), ConfigDict({"name": "cross_entropy"})
        config.data.train.labels = config.data.eval.labels = True
    config.network.update({"width": 64, "depth": 1})
    config.data.train.num_examples = config.data.eval.num_examples = 300
    config.training.update({"batch_size": 32, "eval_batch_size": 50})
    config.sampling.grid.num_steps = 10
    config.mesh.update(mesh)
    config.optimizer.accumulation_steps = accumulation_steps
    return Experiment(config)


def train(experiment: Experiment, num_steps: int = 20):
    """The state after `num_steps`, and the loss and the losses of the examples at each."""
    step, state, history = experiment.recipe.train_step(), experiment.recipe.init_state(), []
    for number in range(num_steps):
        batch = parallel.shard_batch(experiment.train_batches[number], experiment.mesh)
        state, metrics, examples = step(state, batch)
        history.append(jax.device_get((metrics["loss"], examples["loss"])))
    losses, examples = zip(*history, strict=True)
    return state, np.stack(losses), np.stack(examples)


def held_out(experiment: Experiment, state) -> dict[str, float]:
    """What the task measures on the held-out examples."""
    return experiment.task.evaluate(experiment.run_key("evaluate"), state.params, held_out_batches(experiment))


def share_of_a_device(tree) -> float:
    """Bytes of the first device's shards over the bytes of the arrays."""
    shards = [leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree)]
    return sum(shards) / sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def recording(jitted, name: str, programs: dict[str, dict]):
    """A compiled function that records what part of each large array of its inputs a device is given, and its temporaries."""

    def call(*args, **options):
        if name not in programs:
            large = [leaf for leaf in jax.tree.leaves(args) if isinstance(leaf, jax.Array) and leaf.size >= LARGE]
            parts = [math.prod(leaf.sharding.shard_shape(leaf.shape)) / leaf.size for leaf in large]
            memory = jitted.lower(*args, **options).compile().memory_analysis()
            programs[name] = {"parts": parts, "temporaries": memory.temp_size_in_bytes / sum(a.nbytes for a in large)}
        return jitted(*args, **options)

    return call


def measure(experiment: Experiment, state) -> dict:
    """What evaluation, sampling and likelihood give, and how their programs treat the parameters."""
    programs: dict[str, dict] = {}
    loss = experiment.noise_level_loss
    loss._errors = recording(loss._errors, "curve", programs)
    with mock.patch.object(loop, "_solve", recording(loop._solve, "images", programs)):
        images = experiment.generator(experiment.run_key("sample"), state.params, 20).x
    with mock.patch.object(density, "_solve", recording(density._solve, "bits", programs)):
        bits = held_out_bits_per_dim(experiment, state.params, 40, quiet=True).per_example
    curve = loss_by_noise_level(experiment, state.params)
    measured = {"curve": curve.mean.tolist(), "images": images.tolist(), "bits": bits.tolist()}
    return {**measured, "held_out": curve.num_examples, "programs": programs}


def run(name: str, task: str = "denoising") -> dict:
    """The numbers of one task on one mesh."""
    experiment = experiment_on(task=task, **(MESHES if task == "denoising" else CLASSIFIED)[name])
    state, losses, examples = train(experiment)
    block = state.params["network"]
    result = {
        "losses": losses.tolist(),
        "examples": examples.tolist(),
        "evaluated": held_out(experiment, state) if task == "classification" else {},
        "devices": len(jax.tree.leaves(state.params)[0].devices()),
        "share": {part: share_of_a_device(getattr(state, part)) for part in ("params", "ema", "opt_state")},
        "bytes": parallel.bytes_per_device(state),
        "shards": {
            layer: list(block[layer]["kernel"].addressable_shards[0].data.shape)
            for layer in ("input", "block_0_in", "block_0_embedding", "block_0_out")
        },
        "like_the_shapes": all(
            leaf.sharding == like.sharding
            for leaf, like in zip(
                jax.tree.leaves(state), jax.tree.leaves(experiment.recipe.state_shapes()), strict=True
            )
        ),
    }
    return result | (measure(experiment, state) if name in MEASURED and task == "denoising" else {})


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    sizes = {n: parallel.mesh_for_batch(n).size for n in (1, 7, 12, 16, 30, 32, 64, 128)}
    results = {name: run(name) for name in MESHES}
    results |= {f"classification {name}": run(name, "classification") for name in CLASSIFIED}
    pathlib.Path(sys.argv[1]).write_text(json.dumps({"sizes": sizes} | results))
