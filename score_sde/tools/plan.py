"""The cost of a config, before anything runs: parameters, FLOPs, bytes per device, and time at a given utilization.

Everything is compiled from shapes, and nothing is computed. The mesh consists of virtual CPU
devices. So the bytes of the state are exact. The bytes of temporaries (activations, gradients) are
those that XLA's CPU compiler plans.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from score_sde import parallel
from score_sde.data import DataSpec, Source
from score_sde.data.base import Examples
from score_sde.experiment import Experiment
from score_sde.tasks import Task
from score_sde.tools.accelerators import Accelerator
from score_sde.training.logs.stages import duration, stage
from score_sde.training.state import TrainState

HEADROOM = 0.9  # the usable fraction of an accelerator's memory; its runtime and fragments take the rest
Shapes = Mapping[str, Any]


class Blank(Source):
    """Examples of a given shape without content. They replace data that are not on this machine."""

    def __init__(self, shape: tuple[int, ...], num_classes: int | None = None, embedding_dim: int | None = None):
        conditions: dict[str, tuple[int, ...]] = {"label": ()} if num_classes else {}
        conditions |= {"embedding": (embedding_dim,)} if embedding_dim else {}
        num_classes = num_classes or None
        self.spec = DataSpec(shape=shape, levels=256, num_classes=num_classes, conditions=conditions)

    def __len__(self) -> int:
        return 1024  # any number will do, because batches repeat the examples

    def gather(self, indices: np.ndarray) -> Examples:
        x = np.zeros((len(indices), *self.spec.shape), np.uint8)
        kinds = {name: np.int32 if name == "label" else np.float32 for name in self.spec.conditions}
        return {"x": x, **{n: np.zeros((len(indices), *shape), kinds[n]) for n, shape in self.spec.conditions.items()}}


def experiment_on(
    config: ConfigDict, devices: int | None, shape: tuple[int, ...] | None = None, num_classes: int | None = None
) -> Experiment:
    """The experiment on a mesh of exactly `devices`. None is the product of `config.mesh`.

    With `shape`, the data are not read. The examples then have the classes and the embedding that
    the config's network takes, or `num_classes` classes.

    Raises: FileNotFoundError where there is neither the data nor a shape.
    """
    config = config.copy_and_resolve_references()
    config.mesh.num_devices = number_of_devices(config) if devices is None else devices
    experiment = Experiment(config)
    if shape is not None:
        network = experiment.settings.network
        vars(experiment)["train_source"] = Blank(
            shape, num_classes or network.get("num_classes"), network.get("embedding_dim")
        )
    try:
        experiment.train_source  # noqa: B018
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"{error}\nA plan needs only the shape of the data: give --shape=H,W,C (and --num_classes where examples have "
            "labels) to make it without them."
        ) from error
    return experiment


def number_of_devices(config: ConfigDict) -> int:
    """The devices that `config.mesh` asks for: num_devices, or the product of its axes, where an open axis counts 1."""
    mesh = config.mesh
    return mesh.get("num_devices") or math.prod(mesh.get(axis) or 1 for axis in parallel.AXES)


def make_plan(experiment: Experiment, accelerator: Accelerator, mfu: float) -> dict[str, Any]:
    """The plan as numbers, in sections: run, flops_per_image, bytes_per_device, speed, advice.

    `mfu` is the fraction of the accelerators' peak that goes into FLOPs that the model needs. FLOPs
    that compute activations again do not count (Chowdhery et al., arXiv 2204.02311, App. B).

    Raises: ValueError unless 0 < mfu <= 1.
    """
    if not 0 < mfu <= 1:
        raise ValueError(f"--mfu needs 0 < mfu <= 1, got {mfu}.")
    settings, mesh = experiment.settings, experiment.mesh
    shapes, batch = experiment.recipe.state_shapes(), experiment.recipe.batch_shapes()
    # "highest" selects the convolutions of an accelerator, instead of our CPU algorithm.
    with jax.default_matmul_precision("highest"):
        with stage("counting FLOPs"):
            flops = flops_per_image(experiment, shapes, batch)
        with stage(f"compiling the training step for {mesh.size} devices"):
            memory = bytes_per_device(experiment, shapes, batch, accelerator)
    training = settings.training
    rate = mesh.size * accelerator.bf16_tflops * 1e12 * mfu / flops["training_step"]
    run = {
        "network": settings.network["name"],
        "parameters": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes.params)),
        "mesh": dict(mesh.shape),
        "devices": mesh.size,
        "batch_size": training.batch_size,
        "accumulation_steps": settings.optimizer.accumulation_steps,
        "num_steps": training.num_steps,
        "dtype": getattr(experiment.task.network, "dtype", "float32"),
        "remat": getattr(experiment.task.network, "remat", None),
    }
    speed = {
        "accelerator": accelerator._asdict(),
        "mfu": mfu,
        "images_per_second": rate,
        "steps_per_second": rate / training.batch_size,
        "seconds_for_all_steps": training.num_steps * training.batch_size / rate,
    }
    plan = {"run": run, "flops_per_image": flops, "bytes_per_device": memory, "speed": speed}
    return {**plan, "advice": advice(run, memory, accelerator)}


def flops_per_image(experiment: Experiment, shapes: TrainState, batch: Shapes) -> dict[str, float]:
    """XLA's count for the network's forward pass, the training step, and the step with recomputation by `remat`.

    The program is counted before it is optimized or divided, so the count is the same for every
    accelerator. A multiplication counts 1, and so does an addition. The count of a step includes
    the optimizer and the averages, divided over the batch.
    """
    size, mesh = experiment.settings.training.batch_size, parallel.make_mesh(1)
    shapes, batch = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (shapes, batch))
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype), batch)
    task, network = experiment.task, experiment.task.network

    def step_flops(task: Task) -> float:
        lowered = experiment.recipe.train_step(task=task, mesh=mesh, accumulation_steps=1).lower(shapes, batch)
        return _flops(lowered) / size

    executed = step_flops(task)
    needed = executed
    if getattr(network, "remat", "none") != "none":
        needed = step_flops(task.with_network(network.clone(remat="none")))
    return {
        "forward": _flops(jax.jit(task.forward).lower(shapes.params, one)),
        "training_step": needed,
        "training_step_with_recomputation": executed,
    }


def bytes_per_device(
    experiment: Experiment, shapes: TrainState, batch: Shapes, accelerator: Accelerator
) -> dict[str, float | int]:
    """The state's and the batch's bytes on one device of the mesh, and the temporaries of the compiled step."""
    analysis: Any = experiment.recipe.train_step().lower(shapes, batch).compile().memory_analysis()
    parts = {
        "parameters": _held(shapes.params),
        "averages": _held(shapes.ema),
        "optimizer": _held(shapes.opt_state) + _held(shapes.step),
        "batch": _held(batch),
        "temporaries": analysis.temp_size_in_bytes,
    }
    return {**parts, "total": sum(parts.values()), "available": accelerator.memory_gb * 1e9}


def advice(run: Mapping[str, Any], memory: Mapping[str, float | int], accelerator: Accelerator) -> list[str]:
    """Changes for a run that does not fit into the accelerator's memory, the most useful first. [] if it fits."""
    room = HEADROOM * accelerator.memory_gb * 1e9
    if memory["total"] <= room:
        return []
    state = memory["parameters"] + memory["averages"] + memory["optimizer"]
    have = f"{accelerator.name} has {accelerator.memory_gb:.0f} GB (less {1 - HEADROOM:.0%} for its runtime)"
    lines = [f"does not fit: {memory['total'] / 1e9:.1f} GB, and {have}"]
    over_state = [f"mesh.fsdp={2 * run['mesh']['fsdp']} or more divides the state of {state / 1e9:.1f} GB"]
    over_activations = []
    if run["dtype"] == "float32":
        over_activations.append("network.dtype=bfloat16 keeps activations in half the bytes")
    if run["remat"] == "none":
        over_activations.append("network.remat=dots, then blocks, keeps fewer activations")
    examples = run["batch_size"] // (run["mesh"]["data"] * run["mesh"]["fsdp"])
    if examples > run["accumulation_steps"]:
        over_activations.append(
            f"optimizer.accumulation_steps={2 * run['accumulation_steps']} computes fewer of the {examples} examples of a "
            "device at once"
        )
    over_activations.append("more devices: --devices, or mesh.num_devices")
    if state > memory["temporaries"]:
        return lines + over_state + over_activations
    return lines + over_activations + (over_state if state > 0.25 * room else [])


def as_table(plan: Mapping[str, Any]) -> str:
    """The plan as a table, which says which numbers are exact and which are estimates."""
    run, flops, memory, speed = (plan[name] for name in ("run", "flops_per_image", "bytes_per_device", "speed"))
    device = speed["accelerator"]
    mesh = " · ".join(f"{axis} {size}" for axis, size in run["mesh"].items())
    remat = "" if run["remat"] is None else f", remat {run['remat']}"
    parts = f", in {run['accumulation_steps']} parts" if run["accumulation_steps"] > 1 else ""
    again = flops["training_step_with_recomputation"] / flops["training_step"]
    lines = [
        f"{run['network']}, {run['parameters']:,} parameters, {run['dtype']}{remat}",
        f"batch of {run['batch_size']} on {run['devices']} devices ({mesh}){parts}",
        "",
        "GFLOP per image, counted by XLA before optimization",
        _row("forward pass", f"{flops['forward'] / 1e9:,.4g}"),
        _row(
            "training step", f"{flops['training_step'] / 1e9:,.4g}", f"{again:.2f} times that with remat" * (again > 1)
        ),
        "",
        "MB per device",
        *[_row(n, f"{memory[n] / 1e6:,.1f}", "exact") for n in ("parameters", "averages", "optimizer", "batch")],
        _row("temporaries", f"{memory['temporaries'] / 1e6:,.1f}", "estimate: XLA's CPU compiler; others differ"),
        _row("in all", f"{memory['total'] / 1e6:,.1f}", f"of {memory['available'] / 1e6:,.0f}"),
        "",
        f"Speed on {run['devices']} × {device['name']}, {device['bf16_tflops']:g} TFLOP/s each ({device['source']})",
        f"at {speed['mfu']:.0%} of the peak, an assumption:",
        _row("images/s", f"{speed['images_per_second']:,.1f}"),
        _row("steps/s", f"{speed['steps_per_second']:,.3f}"),
        _row(f"{run['num_steps']:,} steps", _time(speed["seconds_for_all_steps"])),
    ]
    if run["dtype"] == "float32":
        lines.append("  With network.dtype=float32 the peak is lower: half of it or less on NVIDIA GPUs (TF32).")
    heads = plan["advice"]
    return "\n".join([*lines, *(["", f"It {heads[0]}; what helps:"] if heads else []), *(f"  {a}" for a in heads[1:])])


def _row(name: str, value: str, note: str = "") -> str:
    return f"  {name:34s} {value:>16s}  {note}".rstrip()


def _time(seconds: float) -> str:
    return f"{seconds / 86400:,.1f} days" if seconds > 2 * 86400 else duration(seconds)


def _flops(lowered: jax.stages.Lowered) -> float:
    costs: Any = lowered.cost_analysis()
    return float(costs["flops"])


def _held(tree: Any) -> int:
    """The bytes that one device holds of arrays given by shape and sharding."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)
