"""A run that is killed at a chosen moment: python -m tests.training.killed_run reads jobs, one JSON object a line.

A job is {"workdir": …, "task": "denoising", "kill": …}. The answer is a line with the exit status
of a child process that trained there. All imports are done once, and each child is forked. So a run
takes a second, and tens of kills are affordable. The production code has no hooks. The child
replaces functions by functions that kill it with SIGKILL, or kills itself from a thread, after some
time or when a file appears.

    {"after": 0.8}                              0.8 s after the child began
    {"file": "checkpoints/*tmp*", "delay": 0}   when a file of that name appears in the workdir, or after a delay
    {"call": "save", "nth": 2, "when": "after"} before or after the second call of `save` (see MOMENTS), or with "half"
                                                when half of what it writes is written
"""

import glob
import hashlib
import importlib
import json
import os
import pathlib
import signal
import sys
import threading
import time

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from configs import base
from score_sde.experiment import Experiment
from score_sde.networks import MLP, NETWORKS
from score_sde.runs import run_training
from score_sde.training.saving import checkpoints

MOMENTS = {
    "lock": ("score_sde.training.lock", "RunLock._acquire"),
    "write config": ("score_sde.training.description", "Description.write"),
    "verify": ("score_sde.training.saving.verification", "find_damage"),
    "restore": ("score_sde.training.saving.checkpoints", "Checkpoints.restore"),
    "drop lines": ("score_sde.training.logs.logging", "drop_lines_after"),
    "compile": ("score_sde.runs.training", "compile_step"),
    "step": ("score_sde.training.incidents", "FiniteGuard.add"),
    "log": ("score_sde.training.logs.logging", "MetricLogger.log"),
    "flush": ("score_sde.training.logs.logging", "MetricLogger.flush"),
    "evaluate": ("score_sde.runs.training", "held_out_batches"),
    "draw": ("score_sde.plots", "save_image"),
    "save": ("score_sde.training.saving.checkpoints", "Checkpoints.save"),
    "manifest": ("score_sde.training.saving.checkpoints", "write_manifest"),
    "wait": ("score_sde.training.saving.checkpoints", "Checkpoints.wait"),
    "close": ("score_sde.training.saving.checkpoints", "Checkpoints.close"),
}


class FlatMLP(nn.Module):
    """The multilayer perceptron on the pixels of an image in a row: an image network that compiles at once."""

    out_features: int | None = None

    @nn.compact
    def __call__(self, x, noise_label, condition=None, train=False):
        mlp = MLP(width=16, depth=1, out_features=self.out_features)
        flat = mlp(x.reshape(len(x), -1), noise_label, condition, train)
        return flat.reshape(x.shape) if self.out_features is None else flat


def config_of(task: str = "denoising", **training) -> ConfigDict:
    """40 steps on the digits; checkpoints, log lines, evaluations and pictures (of a denoiser) fall on different steps."""
    NETWORKS["flat_mlp"] = FlatMLP
    config = base.get_config()
    config.network = ConfigDict({"name": "flat_mlp"})
    config.data.augment.dequantize = True
    config.ema.half_lives_kimg = (0.5, 5.0)
    config.optimizer.schedule.warmup_steps = 10
    labels = task == "classification"
    config.data.train.labels = labels
    config.data.eval = ConfigDict({"name": "digits", "split": "test", "labels": labels})
    schedule = {"num_steps": 40, "batch_size": 32, "eval_batch_size": 512, "eval_levels": 2, "keep_every": None}
    every = {"log_every": 5, "eval_every": 16, "sample_every": 12, "checkpoint_every": 7}
    if task == "classification":
        config.task = ConfigDict({"name": task})
        config.objective = ConfigDict({"name": "cross_entropy"})
        every["sample_every"] = 0
    config.training.update({**schedule, **every, **training})
    config.sampling.grid.num_steps = 2
    config.sampling.num_preview = 4
    return config


def digest(tree) -> str:
    """Of every bit of every array."""
    leaves = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]
    return hashlib.sha256(b"".join(leaves)).hexdigest()


def kill_now() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at_call(call: str, nth: int, when: str) -> None:
    """Replaces the function of that moment."""
    module, path = MOMENTS[call]
    owner = importlib.import_module(module)
    *classes, name = path.split(".")
    for part in classes:
        owner = getattr(owner, part)
    original, count = getattr(owner, name), iter(range(1, 10**9))

    def replaced(*args, **kwargs):
        here = next(count) == nth
        if here and when == "before":
            kill_now()
        if here and when == "half":
            write_half()
        result = original(*args, **kwargs)
        if here and when == "after":
            kill_now()
        return result

    setattr(owner, name, replaced)


def write_half() -> None:
    """From here on, the first file that is written gets half of it."""
    original = open

    class Half:
        def __init__(self, file):
            self._file = file

        def __getattr__(self, name):
            return getattr(self._file, name)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self._file.close()

        def write(self, data):
            self._file.write(data[: len(data) // 2])
            self._file.flush()
            kill_now()

        def writelines(self, lines):
            self.write("".join(lines))

    def half_open(file, mode="r", *args, **kwargs):
        opened = original(file, mode, *args, **kwargs)
        return Half(opened) if "w" in mode else opened

    import builtins
    import io

    builtins.open = io.open = half_open


def kill_from_thread(workdir: pathlib.Path, after: float | None = None, file: str = "", delay: float = 0.0) -> None:
    def wait():
        if after is not None:
            time.sleep(after)
        else:
            while not glob.glob(str(workdir / file)):
                time.sleep(0.0005)
            time.sleep(delay)
        kill_now()

    if file and not delay:  # a checkpoint that is being written is not finished before the thread has seen it
        original = checkpoints.write_manifest

        def held(*args):
            time.sleep(300 if glob.glob(str(workdir / file)) else 0)
            original(*args)

        checkpoints.write_manifest = held
    threading.Thread(target=wait, daemon=True).start()


def child(job: dict) -> None:
    workdir, kill = pathlib.Path(job["workdir"]), job.get("kill") or {}
    if "call" in kill:
        kill_at_call(**kill)
    elif kill:
        kill_from_thread(workdir, **kill)
    with jax.numpy_dtype_promotion("standard"):
        state = run_training(Experiment(config_of(job["task"], **job.get("training", {}))), workdir, quiet=True)
    (workdir / "state.sha256").write_text(digest(state))


def serve() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                child(json.loads(line))
            except BaseException as error:
                sys.stderr.write(f"{error!r}\n")
                os._exit(1)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        answers.write(f"{status}\n")
        answers.flush()


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 1)
    serve()
