"""score_sde: training steps on a given number of virtual devices, and the work around them in the training loop.

It answers the name of a task with seconds, as `interleave.Worker` expects.
"""

import json
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterator

import jax

from benchmarks.throughput import PARTS
from configs.cifar10 import small
from score_sde import parallel
from score_sde.config import plain
from score_sde.experiment import Experiment
from score_sde.training.saving.checkpoints import Checkpoints

BATCH_SIZE, STEPS = 32, 2


class Trainer:
    """A state, its steps by the number of parts that a batch is divided into, and checkpoints in a folder."""

    def __init__(self, devices: int, folder: pathlib.Path):
        config = small.get_config()
        config.training.batch_size = BATCH_SIZE
        config.mesh.num_devices = devices
        self.experiment = Experiment(config)
        self.mesh, self.batches = self.experiment.mesh, self.experiment.train_batches
        self.state = self.experiment.recipe.init_state()
        self.steps = {parts: self.experiment.recipe.train_step(accumulation_steps=parts) for parts in PARTS}
        self.resident = parallel.shard_batch(self.batches[0], self.mesh)
        self.checkpoints, self.saved, self.waited = Checkpoints(folder), 0, 0.0

    def step_in(self, parts: int) -> float:
        """One step with the batch in a number of parts, with the data already on the devices."""
        start = time.perf_counter()
        for _ in range(STEPS):
            self.state, metrics, _ = self.steps[parts](self.state, self.resident)
        jax.block_until_ready((self.state, metrics))
        return (time.perf_counter() - start) / STEPS

    def data_step(self) -> float:
        """One step as in the training loop: a thread prepares batches ahead, and at most two steps are in flight."""
        first, number, before = int(self.state.step), 4 * STEPS, None
        start = time.perf_counter()
        for batch in self._timed(self.batches.iterate(first, first + number)):
            self.state, metrics, _ = self.steps[1](self.state, parallel.shard_batch(batch, self.mesh))
            if before is not None:
                jax.block_until_ready(before)
            before = metrics
        jax.block_until_ready(self.state)
        return (time.perf_counter() - start) / number

    def data_wait(self) -> float:
        """The part of `data_step` in which the loop waits for a batch."""
        self.data_step()
        return self.waited / (4 * STEPS - 1)

    def checkpoint_stall(self) -> float:
        """How long the loop stops for a checkpoint, which is then written in the background."""
        self.saved += 1
        step = jax.device_put(jax.numpy.int32(self.saved), self.state.step.sharding)  # each save needs its own number
        self.state = self.state._replace(step=step)
        start = time.perf_counter()
        self.checkpoints.save(self.state, plain(self.experiment.config))
        stall = time.perf_counter() - start
        self.checkpoints.wait()
        return stall

    def checkpoint_write(self) -> float:
        """Until a checkpoint is on disk."""
        start = time.perf_counter()
        self.checkpoint_stall()
        return time.perf_counter() - start

    def resume(self) -> float:
        """From a checkpoint on disk, verified, to a state on the devices."""
        start = time.perf_counter()
        jax.block_until_ready(self.checkpoints.restore(self.experiment.recipe.state_shapes()))
        return time.perf_counter() - start

    def _timed(self, batches: Iterator) -> Iterator:
        """The batches. It adds up the waits in `waited`, except the first wait, which no thread could avoid."""
        yield next(batches)
        self.waited, start = 0.0, time.perf_counter()
        for batch in batches:
            self.waited += time.perf_counter() - start
            yield batch
            start = time.perf_counter()


def main(devices: int, folder: pathlib.Path) -> None:
    parallel.configure_host()
    trainer = Trainer(devices, folder)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(trainer.state.params))
    print(json.dumps({"devices": devices, "parameters": parameters, "jax": jax.__version__}), flush=True)
    for line in sys.stdin:
        name, _, parts = line.strip().partition("step_in_")
        seconds = trainer.step_in(int(parts)) if parts else getattr(trainer, name)()
        print(json.dumps(seconds), flush=True)
    trainer.checkpoints.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(int(sys.argv[1]), pathlib.Path(temporary))
