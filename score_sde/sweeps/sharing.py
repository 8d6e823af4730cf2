"""How trials that run at once share this machine: each has a slot with its own cores and GPUs."""

import dataclasses
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence


@dataclasses.dataclass(frozen=True)
class Slot:
    """The resources of one trial at a time: CPU cores (None: all), and environment variables that name its GPU."""

    cores: Sequence[int] | None
    environment: Mapping[str, str]


def share(number: int | None, cores: Sequence[int], gpus: Sequence[str]) -> list[Slot]:
    """`number` slots with equal parts of the cores. The GPUs are dealt out in turn.

    None is one slot per GPU, or one slot without GPUs. JAX makes one CPU device per core that it
    may use, so a slot's cores are also its devices. Several trials on one GPU get equal parts of
    nine tenths of its memory.

    Raises: ValueError for no slot.
    """
    number = max(1, len(gpus)) if number is None else number
    if number < 1:
        raise ValueError(f"--max_parallel needs to be at least 1, got {number}.")
    slots = []
    for index in range(number):
        if number == 1:
            mine = None
        elif number <= len(cores):
            mine = list(cores[index * len(cores) // number : (index + 1) * len(cores) // number])
        else:
            mine = [cores[index % len(cores)]]
        environment = {}
        if gpus and number > 1:
            environment["CUDA_VISIBLE_DEVICES"] = gpus[index % len(gpus)]
            sharers = len(range(index % len(gpus), number, len(gpus)))
            if sharers > 1:
                environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 / sharers:.3f}"
        slots.append(Slot(mine, environment))
    return slots


def available_cores() -> list[int]:
    """The cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def available_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them. JAX is not started on them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    number = sum(line.startswith("GPU ") for line in listed.stdout.splitlines()) if listed.returncode == 0 else 0
    return [str(index) for index in range(number)]
