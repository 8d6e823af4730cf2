"""The composition root: a ConfigDict becomes objects. The only place that reads a whole config."""

import dataclasses
import functools
import logging
import math
import operator
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh
from ml_collections import ConfigDict

from score_sde import parallel
from score_sde.catalogues import CATALOGUES
from score_sde.config import (
    Schedule,
    Settings,
    apply_overrides,
    build,
    checked_config,
    differences,
    made,
    plain,
    section_at,
    shared_sections,
)
from score_sde.config.options import options_of
from score_sde.data import (
    DataSpec,
    EvalBatches,
    Source,
    Subset,
    TrainBatches,
    class_number,
    numbered_like,
)
from score_sde.denoising.denoiser import Condition, Denoiser
from score_sde.denoising.parameterizations import Parameterization
from score_sde.generation.generator import Generator
from score_sde.guidance import Guidance
from score_sde.internal.files import read_json, write_json
from score_sde.likelihood import LogProb
from score_sde.objectives import Objective
from score_sde.objectives.loss_by_noise_level import NoiseLevelLoss
from score_sde.sdes import SDE
from score_sde.solvers import Solver
from score_sde.solvers.adaptive_ode import Adaptive
from score_sde.solvers.grids import Grid
from score_sde.tasks import Denoising, Task
from score_sde.training.optimizers import Optimizer, optimizer_of
from score_sde.training.state import Params, TrainState, create_state, state_sharding
from score_sde.training.step import CompiledStep, make_train_step

CONFIG_FILE = "config.json"
MOST_PARAMETERS = 10**13


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Every object that a config names, each built once, when it is first asked for.

    Raises: ValueError for an unknown section, name or field, or a value that a component refuses.
    """

    config: ConfigDict
    settings: Settings = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self):
        for first, second in shared_sections(self.config):
            raise ValueError(
                f"config.{first} and config.{second} are one object, so that a field set in one is set in both; give each "
                "its own in the config file, as by copy.deepcopy."
            )
        section = checked_config(self.config.to_dict(), CATALOGUES)
        object.__setattr__(self, "config", ConfigDict(section))
        object.__setattr__(self, "settings", made(Settings, section))
        self.optimizer  # noqa: B018  its fields are checked as it is built

    def _build(self, path: str, *args: Any) -> Any:
        """The object of the section at `path`."""
        section = operator.attrgetter(path)(self.settings)
        return build(path, CATALOGUES.at[path], section, *args, catalogues=CATALOGUES)

    @functools.cached_property
    def sde(self) -> SDE:
        return self._build("sde")

    @functools.cached_property
    def parameterization(self) -> Parameterization:
        return self._build("parameterization")

    @functools.cached_property
    def task(self) -> Task:
        """What the run trains."""
        model = self._task_class.model(self.sde, self.parameterization, self._network, self.objective)
        return self._build("task", model, self.objective, self.settings.training.eval_levels)

    @functools.cached_property
    def _task_class(self) -> type[Task]:
        found: Any = CATALOGUES.at["task"].find("task", self.settings.task["name"])
        return found

    @property
    def denoiser(self) -> Denoiser:
        """The denoiser that is trained. Raises: ValueError where the task trains something else."""
        return self._denoising.denoiser

    @property
    def noise_level_loss(self) -> NoiseLevelLoss:
        """Measures the loss by noise level. Raises: ValueError where the task trains no denoiser."""
        return self._denoising.noise_level_loss

    @property
    def _denoising(self) -> Denoising:
        if not isinstance(self.task, Denoising):
            raise ValueError(
                f"This needs a run that trains a denoiser, and task.name={self.settings.task['name']} trains another model; "
                "name the workdir or config of a run with task.name=denoising."
            )
        return self.task

    @functools.cached_property
    def _network(self) -> nn.Module:
        """Where the config gives all sizes that the data determine, it is built without the data."""
        section = self.settings.network
        is_complete = self._task_class.has_all_sizes(section, self._network_takes)
        fields = section if is_complete else self._network_fields
        return build("network", CATALOGUES.at["network"], fields, catalogues=CATALOGUES)

    @functools.cached_property
    def _network_takes(self) -> frozenset[str]:
        """The fields that a network of this name has."""
        family = CATALOGUES.at["network"]
        member = family.find("network", self.settings.network["name"])
        return frozenset(options_of(member, family.num_args).fields)

    @functools.cached_property
    def _network_fields(self) -> dict[str, Any]:
        """`config.network` with the sizes of the data. Raises: ValueError where it has others."""
        return self._task_class.network_fields(self.settings.network, self._network_takes, self.train_source.spec)

    @functools.cached_property
    def resolved(self) -> dict[str, Any]:
        """The config as plain JSON values, with the sizes that it leaves to the data filled in."""
        return plain(self.config) | {"network": plain(self._network_fields)}

    @functools.cached_property
    def objective(self) -> Objective:
        return self._build("objective", self.sde)

    @functools.cached_property
    def optimizer(self) -> Optimizer:
        return optimizer_of(dataclasses.replace(self.settings.optimizer, schedule=self.schedule))

    @property
    def schedule(self) -> Schedule:
        """That of the learning rate, with its length."""
        return self.settings.optimizer.schedule.over(self.settings.training.num_steps)

    @functools.cached_property
    def mesh(self) -> Mesh:
        """Of the sizes in `config.mesh`; where none is given, of all devices that share the batch evenly.

        Raises: ValueError for sizes that do not fit the devices, the batch or the network.
        """
        sizes, batch_size = self.settings.mesh, self.settings.training.batch_size
        is_free = sizes == type(sizes)()
        mesh = parallel.mesh_for_batch(batch_size) if is_free else parallel.make_mesh(**dataclasses.asdict(sizes))
        parallel.check_batch_size(batch_size, mesh, self.settings.optimizer.accumulation_steps)
        if mesh.shape["tensor"] > 1 and not hasattr(self._network, "tensor_axis"):
            raise ValueError(
                f"mesh.tensor={mesh.shape['tensor']} needs a network that says which axes to divide, and "
                f"{type(self._network).__name__} does not; set mesh.tensor=1 and divide the parameters with mesh.fsdp."
            )
        return mesh

    @functools.cached_property
    def train_source(self) -> Source:
        return self._build("data.train")

    @functools.cached_property
    def eval_source(self) -> Source:
        """The held-out examples, with their classes numbered by name as those of `train_source`."""
        return numbered_like(self._build("data.eval"), self.train_source.spec, "config.data.eval")

    @functools.cached_property
    def spec(self) -> DataSpec:
        """Of one example, after cropping: what the network sees and samples are made of."""
        return self.train_batches.spec

    @functools.cached_property
    def train_batches(self) -> TrainBatches:
        return TrainBatches(
            source=self.train_source,
            batch_size=self.settings.training.batch_size,
            seed=self.settings.seed,
            on_error=self.settings.data.on_error,
            **self._part_of_batch,
            **dataclasses.asdict(self.settings.data.augment),
        )

    @functools.cached_property
    def _part_of_batch(self) -> dict[str, Any]:
        """Which part of every batch this process loads."""
        index, count = (0, 1) if jax.process_count() == 1 else parallel.batch_part(self.mesh)
        return {"process_index": index, "process_count": count}

    def eval_batches(self, batch_size: int, max_examples: int | None = None) -> EvalBatches:
        """Every held-out example once (or the first `max_examples`), in batches of all processes together."""
        source = self.eval_source
        if max_examples is not None and max_examples < len(source):
            source = Subset(source, np.arange(max_examples))
        data = self.settings.data
        how = {"crop": data.augment.crop, "on_error": data.on_error, **self._part_of_batch}
        return EvalBatches(source=source, batch_size=batch_size, **how)

    @functools.cached_property
    def solver(self) -> Solver:
        return self._build("sampling.solver")

    @functools.cached_property
    def grid(self) -> Grid:
        return self._build("sampling.grid")

    @functools.cached_property
    def generator(self) -> Generator:
        """Draws with the solver, grid, condition and guidance of `config.sampling`, over the mesh."""
        how = self.solver, self.grid, self.spec.shape, self.mesh, self.sampling_condition, self.guidance
        return Generator(self.denoiser, *how, place=self.place)

    @functools.cached_property
    def guidance(self) -> tuple[Guidance, ...]:
        """The rules of `config.sampling.guidance`, and last the one of `config.sampling.threshold` where it is set."""
        sampling, family = self.settings.sampling, CATALOGUES.at["sampling.guidance"]
        rules = [
            build(f"sampling.guidance[{i}]", family, section, catalogues=CATALOGUES)
            for i, section in enumerate(sampling.guidance)
        ]
        if sampling.threshold is not None:
            rules.append(self._build("sampling.threshold"))
        return tuple(rules)

    @functools.cached_property
    def log_prob(self) -> LogProb:
        section = self.settings.likelihood
        adaptive = Adaptive(rtol=section.rtol, atol=section.atol)
        return LogProb(adaptive=adaptive, t_min=section.t_min, divergence=self._build("likelihood.divergence"))

    def run_key(self, purpose: str) -> jax.Array:
        """The key of one use of the seed: "init", "train", "sample", "likelihood" or "evaluate"."""
        purposes = ("init", "train", "sample", "likelihood", "evaluate")
        return jax.random.fold_in(jax.random.key(self.settings.seed), purposes.index(purpose))

    def init_state(self) -> TrainState:
        """The state at step 0, where `state_sharding` puts it; each device draws its own part."""
        # Only shapes matter; all processes must give the same numbers, and their examples are not the same.
        batch = jax.tree.map(lambda like: np.zeros(like.shape, like.dtype), self._batch_of_one)
        # Each parameter is another small random program, run once: what takes long is the compiler, a third of it at level 1.
        options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
        create = jax.jit(self._create_state, out_shardings=self.state_sharding, compiler_options=options)
        return create(self.run_key("init"), batch)

    def state_from(self, params: Params) -> TrainState:
        """The state at step 0 with these parameters, at which every average starts; the optimizer's state is fresh."""
        half_lives = tuple(self.settings.ema.half_lives_kimg)
        create = jax.jit(
            lambda params: create_state(params, self.optimizer, half_lives), out_shardings=self.state_sharding
        )
        return create(params)

    def place(self, params: Params) -> Params:
        """Parameters where they lie in training, for sampling and measuring: large ones divided over fsdp.

        No device then holds a whole copy of a large array. Asking for whole parameters inside a solver's loop would make XLA
        gather all of them once, before the loop.
        """
        return parallel.place(params, state_sharding(params, self.task, self.mesh))

    def state_shapes(self) -> TrainState:
        """Shapes, types and shardings of the state, without computing it."""

        def with_sharding(leaf, sharding):
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

        return jax.tree.map(with_sharding, self._state_shapes, self.state_sharding)

    @functools.cached_property
    def state_sharding(self) -> TrainState:
        """Of each array of the state."""
        return state_sharding(self._state_shapes, self.task, self.mesh)

    @functools.cached_property
    def _state_shapes(self) -> TrainState:
        self._network_fields  # noqa: B018  a network of other sizes than the data's is refused
        shapes = jax.eval_shape(self._create_state, self.run_key("init"), self._batch_of_one)
        count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes.params))
        if count > MOST_PARAMETERS:
            raise ValueError(
                f"The network has {count:,} parameters, and no machine holds more than {MOST_PARAMETERS:,}; look at the "
                "sizes in config.network."
            )
        return shapes

    def batch_shapes(self) -> dict[str, Any]:
        """Shapes, types and shardings of a global batch, by reading one example."""
        size, sharding = self.settings.training.batch_size, parallel.batch_sharding(self.mesh)

        def shape_of(like):
            return jax.ShapeDtypeStruct((size, *like.shape[1:]), like.dtype, sharding=sharding)

        return jax.tree.map(shape_of, self._batch_of_one)

    @functools.cached_property
    def _batch_of_one(self) -> dict[str, Any]:
        one = dataclasses.replace(self.train_batches, batch_size=1, process_index=0, process_count=1)[0]
        one.pop("replaced", None)  # which the step is not given
        return jax.tree.map(lambda value: jax.ShapeDtypeStruct(value.shape, value.dtype), one)

    def _create_state(self, key, batch) -> TrainState:
        params = self.task.init(key, batch)
        return create_state(params, self.optimizer, tuple(self.settings.ema.half_lives_kimg))

    def train_step(
        self, *, task: Task | None = None, mesh: Mesh | None = None, accumulation_steps: int | None = None
    ) -> CompiledStep:
        """The training step, of `config` but for what is given."""
        if accumulation_steps is None:
            accumulation_steps = self.settings.optimizer.accumulation_steps
        return make_train_step(
            self.run_key("train"),
            task or self.task,
            self.optimizer,
            mesh or self.mesh,
            batch_size=self.settings.training.batch_size,
            rampup_ratio=self.settings.ema.rampup_ratio,
            accumulation_steps=accumulation_steps,
        )

    def sampling_condition(self, first_index: int, number: int) -> Condition:
        """The condition of images first_index … first_index + number − 1, each a function of its image's index alone.

        A model that is told labels alone gets the classes in turn, or `sampling.label` (a number or a name) for all. A
        model that is told more gets all conditions of image i from one held-out example, so that they agree: from example
        i mod n of the n in `data.eval`, or of the n of class `sampling.label`.

        Raises: ValueError for a label that is no class or of which no example is held out, or held-out data without the
        conditions of the training data.
        """
        spec, label = self.spec, self.settings.sampling.label
        if label is not None and spec.num_classes is None:
            raise ValueError(f"sampling.label needs a model that is told labels, got {label!r}; set it to None.")
        number_of_class = None if label is None else class_number(label, spec, "sampling.label")
        indices = np.arange(first_index, first_index + number)
        if set(spec.conditions) <= {"label"}:
            if spec.num_classes is None:
                return {}
            labels = indices % spec.num_classes if number_of_class is None else np.full(number, number_of_class)
            return {"label": jnp.asarray(labels.astype(np.int32))}
        rows = self._rows_of_class(number_of_class)
        condition = self.eval_batches(parallel.round_up(1, self.mesh)).at(rows[indices % len(rows)])["condition"]
        return {name: jnp.asarray(condition[name]) for name in spec.conditions}

    def _rows_of_class(self, label: int | None) -> np.ndarray:
        """The indices of the held-out examples of a class; None is all of them."""
        self.check_held_out()
        if label is None:
            return np.arange(len(self.eval_source))
        rows = np.flatnonzero(self._eval_labels == label)
        if not rows.size:
            raise ValueError(
                f"sampling.label={self.settings.sampling.label!r} needs a held-out example of this class, since a model that "
                "is told more than labels gets all of an image's conditions from one example; config.data.eval has none."
            )
        return rows

    @functools.cached_property
    def _eval_labels(self) -> np.ndarray:
        return self.eval_source.labels()

    def check_held_out(self) -> None:
        """Raises ValueError unless shape, levels, classes and conditions of held-out examples are those of training."""
        there, here = self.eval_batches(parallel.round_up(1, self.mesh)).spec, self.spec
        facts = ("shape", "levels", "conditions", "num_classes")
        differ = [
            f"{n}: {getattr(here, n)!r} there, {getattr(there, n)!r} here"
            for n in facts
            if getattr(there, n) != getattr(here, n)
        ]
        if differ:
            raise ValueError(f"config.data.eval needs examples like those of data.train; {'; '.join(differ)}.")

    def write_config(self, workdir: pathlib.Path) -> None:
        """Writes workdir/config.json, from which `from_workdir` builds the same experiment."""
        write_json(workdir / CONFIG_FILE, self.resolved)


def from_workdir(workdir: str | pathlib.Path, overrides: Sequence[str] = ()) -> Experiment:
    """The experiment that was trained in `workdir`, with `overrides` such as "sampling.grid.num_steps=50".

    Raises: FileNotFoundError when nothing was trained there; ValueError for an override of an unknown field.
    """
    path = pathlib.Path(workdir) / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"No config.json in {path.parent}; train there first, or name the --workdir of a run.")
    content = read_json(path, "restore it from a backup, or train with the same --config again, which writes it")
    config = ConfigDict(content)
    trained = config.copy_and_resolve_references()
    for override in overrides:
        apply_override(config, override)
    _warn_of_another_model(trained, config)
    return Experiment(config)


def apply_override(config: ConfigDict, override: str) -> None:
    """Sets "FIELD.FIELD=VALUE" in a config, as `score_sde.config.overrides` reads it.

    Raises: ValueError without an "=", for a path that is no field, or a text that is no value of it.
    """
    path, equals, text = override.partition("=")
    if not equals:
        raise ValueError(f"An override needs FIELD=VALUE, as sampling.grid.num_steps=50, got {override!r}.")
    apply_overrides(config, [(path, text)], CATALOGUES)


def _warn_of_another_model(trained: ConfigDict, config: ConfigDict) -> None:
    """Says so where a network would be read in another way than it was trained."""
    found = {
        name: differences({name: plain(trained)[name]}, {name: plain(config)[name]})
        for name in ("sde", "parameterization")
    }
    if found["parameterization"]:
        logging.warning(
            "The network was trained to predict something else (%s); what it predicts is misread.",
            "; ".join(found["parameterization"]),
        )
    if found["sde"] and section_at(trained, "parameterization.noise_label.name") == "time":
        logging.warning(
            "The network was told the time t, and at each t another SDE has another noise level (%s); only a network that is "
            "told the noise level itself, as by parameterization.noise_label=log_sigma, can be used with another SDE.",
            "; ".join(found["sde"]),
        )
