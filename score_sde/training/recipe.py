"""Everything that determines the numbers of a training: task, batches, optimizer, averages, mesh and seed."""

import dataclasses
import functools
import math
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Key

from score_sde import parallel
from score_sde.data import DataSpec, TrainBatches
from score_sde.tasks import Task
from score_sde.training.optimizers import Optimizer
from score_sde.training.state import Params, TrainState, create_state, state_sharding
from score_sde.training.step import CompiledStep, make_train_step

MOST_PARAMETERS = 10**13
PURPOSES = ("init", "train", "sample", "likelihood", "evaluate", "measure")


def key_of(seed: int, purpose: str) -> Key[Array, ""]:
    """The key of one use of a seed: "init", "train", "sample", "likelihood", "evaluate" or "measure"."""
    with jax.enable_x64(True):  # else a seed of more than 32 bits loses the upper ones without a word
        key = jax.random.key(seed)
    return jax.random.fold_in(key, PURPOSES.index(purpose))


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A recipe. The same recipe gives the same numbers, step by step.

    Logs, checkpoints and pictures are not part of it.

    Attributes:
      task: the task that is trained.
      optimizer: the update from a gradient.
      batches: the batches of the training set.
      mesh: the devices.
      seed: the random seed of the parameters and of all draws. The batches have their own seed.
      half_lives_kimg: the half-lives of averages of the parameters, in thousands of images.
      rampup_ratio: keeps a half-life below this fraction of the images seen so far. None: no
        ramp-up.
      accumulation_steps: the number of parts of a batch that are differentiated one after the
        other.
    """

    task: Task
    optimizer: Optimizer
    batches: TrainBatches
    mesh: Mesh
    seed: int = 0
    half_lives_kimg: tuple[float | int, ...] = ()
    rampup_ratio: float | None = 0.05
    accumulation_steps: int = 1

    @property
    def spec(self) -> DataSpec:
        """The spec of one example after cropping, which is the spec of the network's input and of samples."""
        return self.batches.spec

    def run_key(self, purpose: str) -> Key[Array, ""]:
        """The key of one use of the seed, as `key_of`."""
        return key_of(self.seed, purpose)

    def init_state(self) -> TrainState:
        """The state at step 0, placed as `state_sharding` says. Each device draws its own part."""
        # Zeros, because only shapes matter. The examples of the processes differ, but all processes must give
        # the same numbers.
        batch = jax.tree.map(lambda like: np.zeros(like.shape, like.dtype), self._batch_of_one)
        # Each parameter is another small random program, which runs once. Compilation takes most of the time,
        # and optimization level 1 cuts it to a third.
        options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
        create = jax.jit(self._create_state, out_shardings=self.state_sharding, compiler_options=options)
        return create(self.run_key("init"), batch)

    def state_from(self, params: Params) -> TrainState:
        """The state at step 0 with these parameters. Every average starts at them, and the optimizer's state is fresh."""
        create = jax.jit(
            lambda params: create_state(params, self.optimizer, self.half_lives_kimg),
            out_shardings=self.state_sharding,
        )
        return create(params)

    def place(self, params: Params) -> Params:
        """The parameters with their placement in training, for sampling and measuring: large arrays are divided over fsdp.

        So no device holds a whole copy of a large array. If a solver's loop needed whole
        parameters, XLA would gather all of them once, before the loop.
        """
        return parallel.place(params, state_sharding(params, self.task, self.mesh))

    def state_shapes(self) -> TrainState:
        """The shapes, types and shardings of the state, without computing it."""

        def with_sharding(leaf, sharding):
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

        return jax.tree.map(with_sharding, self._state_shapes, self.state_sharding)

    @functools.cached_property
    def state_sharding(self) -> TrainState:
        """The sharding of each array of the state."""
        return state_sharding(self._state_shapes, self.task, self.mesh)

    @functools.cached_property
    def _state_shapes(self) -> TrainState:
        shapes = jax.eval_shape(self._create_state, self.run_key("init"), self._batch_of_one)
        count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes.params))
        if count > MOST_PARAMETERS:
            raise ValueError(
                f"The network has {count:,} parameters, and no machine holds more than {MOST_PARAMETERS:,}; look at the "
                "sizes in config.network."
            )
        return shapes

    def batch_shapes(self) -> dict[str, Any]:
        """The shapes, types and shardings of a global batch, from one example."""
        size, sharding = self.batches.batch_size, parallel.batch_sharding(self.mesh)

        def shape_of(like):
            return jax.ShapeDtypeStruct((size, *like.shape[1:]), like.dtype, sharding=sharding)

        return jax.tree.map(shape_of, self._batch_of_one)

    @functools.cached_property
    def _batch_of_one(self) -> dict[str, Any]:
        one = dataclasses.replace(self.batches, batch_size=1, process_index=0, process_count=1)[0]
        one.pop("replaced", None)  # the step does not get this entry
        return jax.tree.map(lambda value: jax.ShapeDtypeStruct(value.shape, value.dtype), one)

    def _create_state(self, key, batch) -> TrainState:
        return create_state(self.task.init(key, batch), self.optimizer, self.half_lives_kimg)

    def train_step(
        self, *, task: Task | None = None, mesh: Mesh | None = None, accumulation_steps: int | None = None
    ) -> CompiledStep:
        """The training step. Arguments replace the recipe's own parts."""
        return make_train_step(
            self.run_key("train"),
            task or self.task,
            self.optimizer,
            mesh or self.mesh,
            batch_size=self.batches.batch_size,
            rampup_ratio=self.rampup_ratio,
            accumulation_steps=self.accumulation_steps if accumulation_steps is None else accumulation_steps,
        )
