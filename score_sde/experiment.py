"""The composition root: it builds objects from a ConfigDict. Only this module reads a whole config."""

import contextlib
import dataclasses
import functools
import operator
import pathlib
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh
from ml_collections import ConfigDict

from score_sde import parallel
from score_sde.catalogues import CATALOGUES
from score_sde.config import (
    FrozenConfig,
    Schedule,
    Settings,
    build,
    checked_config,
    made,
    plain,
    shared_sections,
)
from score_sde.config.options import options_of
from score_sde.data import (
    DataSpec,
    EvalBatches,
    Source,
    Subset,
    TrainBatches,
    numbered_like,
)
from score_sde.data.held_out import check_alike
from score_sde.denoising.denoiser import Denoiser
from score_sde.denoising.parameterizations import Parameterization
from score_sde.generation.conditions import SamplingConditions
from score_sde.generation.generator import Generator
from score_sde.guidance import Guidance
from score_sde.guidance.inverse import METHODS, Restoration
from score_sde.internal.files import read_json
from score_sde.latents import Codec, EncodedSource
from score_sde.likelihood import LogProb
from score_sde.objectives import Objective
from score_sde.objectives.loss_by_noise_level import NoiseLevelLoss
from score_sde.sdes import SDE
from score_sde.solvers import Solver
from score_sde.solvers.adaptive_ode import Adaptive
from score_sde.solvers.grids import Grid
from score_sde.tasks import Classification, Denoising, Task
from score_sde.training.description import CONFIG_FILE
from score_sde.training.optimizers import Optimizer, optimizer_of
from score_sde.training.recipe import Recipe, key_of
from score_sde.training.saving.checkpoints import Checkpoints
from score_sde.training.state import Params, average_name


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Every object that a config names. Each object is built once, when it is first asked for.

    Raises: ValueError for an unknown section, name or field, or for a value that a component does
      not accept.
    """

    config: ConfigDict
    settings: Settings = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self):
        for first, second in shared_sections(self.config):
            raise ValueError(
                f"config.{first} and config.{second} are one object, so a field set in one is set in both; give each its own "
                "in the config file, as by copy.deepcopy."
            )
        section = checked_config(self.config.to_dict(), CATALOGUES)
        object.__setattr__(self, "config", FrozenConfig(section))
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
        """The task that the run trains."""
        model = self._task_class.model(self.sde, self.parameterization, self._network, self.objective)
        return self._build("task", model, self.objective, self.settings.training.eval_levels)

    @functools.cached_property
    def _task_class(self) -> type[Task]:
        found: Any = CATALOGUES.at["task"].find("task", self.settings.task["name"])
        return found

    @property
    def denoiser(self) -> Denoiser:
        """The denoiser that is trained.

        Raises: ValueError where the task trains another model.
        """
        return self._denoising.denoiser

    @property
    def noise_level_loss(self) -> NoiseLevelLoss:
        """Measures the loss by noise level.

        Raises: ValueError where the task does not train a denoiser.
        """
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
        """The network. If the config gives all sizes that the data determine, it is built without the data."""
        section = self.settings.network
        is_complete = self._task_class.has_all_sizes(section, self._network_takes)
        fields = section if is_complete else self._network_fields
        return build("network", CATALOGUES.at["network"], fields, catalogues=CATALOGUES)

    @functools.cached_property
    def _network_takes(self) -> frozenset[str]:
        """The fields of a network of this name."""
        family = CATALOGUES.at["network"]
        member = family.find("network", self.settings.network["name"])
        return frozenset(options_of(member, family.num_args).fields)

    @functools.cached_property
    def _network_fields(self) -> dict[str, Any]:
        """`config.network` with the sizes of the data.

        Raises: ValueError where the config has other sizes.
        """
        spec = self.codec.spec(self.train_source.spec)
        return self._task_class.network_fields(self.settings.network, self._network_takes, spec)

    @functools.cached_property
    def resolved(self) -> dict[str, Any]:
        """The config as JSON values, with the sizes that the config leaves to the data."""
        return plain(self.config) | {"network": plain(self._network_fields)}

    @functools.cached_property
    def objective(self) -> Objective:
        return self._build("objective", self.sde)

    @functools.cached_property
    def optimizer(self) -> Optimizer:
        return optimizer_of(dataclasses.replace(self.settings.optimizer, schedule=self.schedule))

    @property
    def schedule(self) -> Schedule:
        """The schedule of the learning rate, with its length."""
        return self.settings.optimizer.schedule.over(self.settings.training.num_steps)

    @functools.cached_property
    def mesh(self) -> Mesh:
        """The mesh of the sizes in `config.mesh`. Without sizes, it is all devices that share the batch evenly.

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
        """The held-out examples. Their classes are numbered by name as in `train_source`."""
        return numbered_like(self._build("data.eval"), self.train_source.spec, "config.data.eval")

    @functools.cached_property
    def codec(self) -> Codec:
        """The codec between the data and the variable of the model.

        Raises: ValueError where the config also augments the data.
        """
        codec, augment = self._build("codec"), self.settings.data.augment
        on = [name for name, value in dataclasses.asdict(augment).items() if value]
        if on and not codec.is_identity:
            raise ValueError(
                f"config.codec={self.settings.codec['name']} encodes each example once, before it is augmented, so that "
                f"data.augment.{on[0]} would change encoded numbers and not images; switch it off, or use codec.name=identity."
            )
        return codec

    def _encoded(self, source: Source) -> Source:
        """The source of encoded examples."""
        return source if self.codec.is_identity else EncodedSource(source, self.codec)

    @functools.cached_property
    def spec(self) -> DataSpec:
        """The spec of one example after cropping, which is the spec of decoded samples."""
        return self.train_batches.spec if self.codec.is_identity else self.train_source.spec

    @property
    def latent_spec(self) -> DataSpec:
        """The spec of the network's input: one example, encoded and cropped."""
        return self.train_batches.spec

    @functools.cached_property
    def train_batches(self) -> TrainBatches:
        """The training batches of encoded examples."""
        return TrainBatches(
            source=self._encoded(self.train_source),
            batch_size=self.settings.training.batch_size,
            seed=self.settings.seed,
            on_error=self.settings.data.on_error,
            **self._part_of_batch,
            **dataclasses.asdict(self.settings.data.augment),
        )

    @functools.cached_property
    def _part_of_batch(self) -> dict[str, Any]:
        """The part of every batch that this process loads."""
        index, count = (0, 1) if jax.process_count() == 1 else parallel.batch_part(self.mesh)
        return {"process_index": index, "process_count": count}

    def eval_batches(self, batch_size: int, max_examples: int | None = None, encoded: bool = False) -> EvalBatches:
        """Every held-out example once (or the first `max_examples`), in batches of all processes together.

        They are the data themselves, for the comparison with samples. With `encoded`, they are the
        input of the model.
        """
        source = self._encoded_eval_source if encoded else self.eval_source
        if max_examples is not None and max_examples < len(source):
            source = Subset(source, np.arange(max_examples))
        data = self.settings.data
        how = {"crop": data.augment.crop, "on_error": data.on_error, **self._part_of_batch}
        return EvalBatches(source=source, batch_size=batch_size, **how)

    @functools.cached_property
    def _encoded_eval_source(self) -> Source:
        return self._encoded(self.eval_source)

    @functools.cached_property
    def solver(self) -> Solver:
        """The solver of the config, or of the method for inverse problems that its guidance names."""
        if self.restoration is None:
            return self._build("sampling.solver")
        return self.restoration.how(*self.plain_how())[0]

    @functools.cached_property
    def grid(self) -> Grid:
        """The grid of the config. Some methods for inverse problems add a last step to it, or jumps."""
        if self.restoration is None:
            return self._build("sampling.grid")
        return self.restoration.how(*self.plain_how())[1]

    def plain_how(self) -> tuple[Solver, Grid]:
        """The solver and the grid of the config as they are."""
        return self._build("sampling.solver"), self._build("sampling.grid")

    @functools.cached_property
    def restoration(self) -> Restoration | None:
        """The method for inverse problems that the guidance names.

        Raises: ValueError for more than one, or one that is not the last rule.
        """
        family, sections = CATALOGUES.at["sampling.guidance"], self.settings.sampling.guidance
        found = [i for i, section in enumerate(sections) if section["name"] in METHODS]
        if not found:
            return None
        if found != [len(sections) - 1] or self.settings.sampling.threshold is not None:
            raise ValueError(
                "A method for inverse problems needs to be the last rule, got sampling.guidance="
                f"{[section['name'] for section in sections]} and sampling.threshold={self.settings.sampling.threshold}; "
                "put it last, and a threshold before it in the list."
            )
        path = f"sampling.guidance[{found[0]}]"
        restoration: Restoration = build(path, family, sections[found[0]], catalogues=CATALOGUES)
        return restoration

    @functools.cached_property
    def generator(self) -> Generator:
        """A generator with the solver, grid, condition, guidance and codec of the config, over the mesh."""
        if self.restoration is not None:
            self.restoration.check_alone()
        told = self.sampling_condition
        how = self.solver, self.grid, self.latent_spec.shape, self.mesh, told, self.guidance
        return Generator(self.denoiser, *how, place=self.place, codec=self.codec, observation=told.observation)

    @functools.cached_property
    def guidance(self) -> tuple[Guidance, ...]:
        """The rules of `config.sampling.guidance`, then the rule of `config.sampling.threshold` if it is set.

        A rule that names another run, as autoguidance does, gets the model of that run here.
        """
        sampling, family = self.settings.sampling, CATALOGUES.at["sampling.guidance"]
        rules = [
            build(f"sampling.guidance[{i}]", family, section, catalogues=CATALOGUES).loaded(bound_model)
            for i, section in enumerate(sampling.guidance)
        ]
        if sampling.threshold is not None:
            rules.append(self._build("sampling.threshold"))
        return tuple(rules)

    @functools.cached_property
    def log_prob(self) -> LogProb:
        """Computes log-densities.

        Raises: ValueError where the model's density is a density of encoded data.
        """
        if not self.codec.is_identity:
            raise ValueError(
                f"Likelihood and bits/dim need codec.name=identity, got {self.settings.codec['name']}: the model has a density "
                "of encoded data, not of the data themselves. Measure samples instead, as by --metrics=fid."
            )
        section = self.settings.likelihood
        adaptive = Adaptive(rtol=section.rtol, atol=section.atol)
        return LogProb(adaptive=adaptive, t_min=section.t_min, divergence=self._build("likelihood.divergence"))

    def run_key(self, purpose: str) -> jax.Array:
        """The key of one use of the seed: `training.recipe.key_of`."""
        return key_of(self.settings.seed, purpose)

    @functools.cached_property
    def recipe(self) -> Recipe:
        """Everything that determines the numbers of the training.

        Raises: ValueError for a network with other sizes than the data.
        """
        self._network_fields  # noqa: B018  which checks them
        ema = self.settings.ema
        return Recipe(
            self.task,
            self.optimizer,
            self.train_batches,
            self.mesh,
            self.settings.seed,
            tuple(ema.half_lives_kimg),
            ema.rampup_ratio,
            self.settings.optimizer.accumulation_steps,
        )

    def place(self, params: Params) -> Params:
        """The parameters with their placement in training: `Recipe.place`."""
        return self.recipe.place(params)

    @functools.cached_property
    def sampling_condition(self) -> SamplingConditions:
        """(first index, number) -> the condition of these images. The object also gives their observation."""
        takes_observation = any(rule.takes_observation for rule in self.guidance)
        measure = (
            None if self.restoration is None else functools.partial(self.restoration.measured, self.run_key("measure"))
        )
        return SamplingConditions(
            self.spec, self.settings.sampling.label, self._checked_held_out, takes_observation, measure
        )

    def check_held_out(self) -> None:
        """Raises ValueError unless held-out and training examples have equal shape, levels, classes and conditions."""
        self._checked_held_out()

    def _checked_held_out(self) -> EvalBatches:
        batches = self.eval_batches(parallel.round_up(1, self.mesh))
        check_alike(batches.spec, self.spec)
        return batches


def bound_model(workdir: str, step: int | None, average: str | None) -> Any:
    """The model of another run with the parameters of a checkpoint: a bound denoiser, or a bound classifier.

    Raises: FileNotFoundError if nothing was trained there; ValueError for an average that was not kept, and for a run of
      another task.
    """
    folder = pathlib.Path(workdir)
    if not (folder / CONFIG_FILE).is_file():
        raise FileNotFoundError(f"No {CONFIG_FILE} in {folder}, which a rule of guidance names; train there first.")
    remedy = "restore it from a backup, or train with the same --config again, which writes it"
    other = Experiment(ConfigDict(read_json(folder / CONFIG_FILE, remedy)))
    with contextlib.closing(Checkpoints(folder, read_only=True)) as checkpoints:
        state = checkpoints.restore(other.recipe.state_shapes(), step)
    name, task = average_name(state.ema, average), other.task
    params = other.place(state.ema.get(name, state.params))
    if isinstance(task, Classification):
        return task.classifier.bind(params)
    return other.denoiser.bind(params)
