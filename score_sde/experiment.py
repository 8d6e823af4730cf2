"""The composition root: a ConfigDict becomes objects. The only place that reads a whole config."""

import ast
import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from score_sde import parallel
from score_sde.adaptive import Adaptive
from score_sde.building import build, closest
from score_sde.data import SOURCES, DataSpec, EvalBatches, Source, Subset, TrainBatches
from score_sde.denoiser import Condition, Denoiser, Uncertainty, condition_of
from score_sde.dynamics import Denoise
from score_sde.evaluation import NoiseLevelLoss, noise_levels
from score_sde.files import write_json
from score_sde.generation import Generator
from score_sde.likelihood import DIVERGENCES, LogProb
from score_sde.networks import NETWORKS
from score_sde.objectives import OBJECTIVES, TIME_SAMPLERS, WEIGHTINGS, Objective
from score_sde.parameterizations import NOISE_LABELS, PARAMETERIZATIONS, Parameterization
from score_sde.plain_config import plain
from score_sde.sdes import SDE, SDES
from score_sde.solvers import GRIDS, SOLVERS, Grid, Solver
from score_sde.thresholding import THRESHOLDS
from score_sde.training.optimizers import build_optimizer
from score_sde.training.state import TrainState, create_state, state_sharding
from score_sde.training.step import CompiledStep, make_train_step

CONFIG_FILE = "config.json"
SECTIONS = (
    "data",
    "sde",
    "parameterization",
    "network",
    "objective",
    "optimizer",
    "ema",
    "mesh",
    "training",
    "sampling",
    "likelihood",
)
OPTIONAL_FIELDS = ("sampling.label", "sampling.threshold")  # that a config may lack, and --set may give


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Every object that a config names, each built once, when it is first asked for.

    Raises: ValueError for an unknown section, name or field, or a value that a component refuses.
    """

    config: ConfigDict

    def __post_init__(self):
        missing = [name for name in SECTIONS if name not in self.config]
        unknown = [name for name in self.config if name not in (*SECTIONS, "seed")]
        if missing or unknown:
            raise ValueError(
                f"A config needs the sections {SECTIONS} and a seed; missing {missing}, unknown {unknown}."
            )
        if "num_devices" in self.config.training:
            raise ValueError(
                f"training.num_devices is now mesh.num_devices, got {self.config.training.num_devices}; move it to the "
                "section mesh."
            )

    @functools.cached_property
    def sde(self) -> SDE:
        return build("sde", SDES, _fields(self.config.sde))

    @functools.cached_property
    def parameterization(self) -> Parameterization:
        section = _fields(self.config.parameterization)
        return build("parameterization", PARAMETERIZATIONS, section, noise_label=NOISE_LABELS)

    @functools.cached_property
    def denoiser(self) -> Denoiser:
        learned = self.config.objective.get("learned_uncertainty", False)
        network = build("network", NETWORKS, _fields(self.config.network))
        return Denoiser(self.sde, self.parameterization, network, Uncertainty() if learned else None)

    @functools.cached_property
    def objective(self) -> Objective:
        section = _fields(self.config.objective)
        return build("objective", OBJECTIVES, section, self.sde, weighting=WEIGHTINGS, time_sampler=TIME_SAMPLERS)

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformation:
        fields = _fields(self.config.optimizer)
        return build_optimizer(**{name: value for name, value in fields.items() if name != "accumulation_steps"})

    @functools.cached_property
    def mesh(self) -> Mesh:
        """Of the sizes in `config.mesh`; where none is given, of all devices that share the batch evenly.

        Raises: ValueError for sizes that do not fit the devices, the batch or the network.
        """
        free: dict[str, int | None] = {"num_devices": None, "data": None, "fsdp": 1, "tensor": 1}
        section, batch_size = free | _fields(self.config.mesh), self.config.training.batch_size
        if section.keys() != free.keys():
            raise ValueError(f"config.mesh needs the fields {sorted(free)}, got {sorted(section)}.")
        mesh = parallel.mesh_for_batch(batch_size) if section == free else parallel.make_mesh(**section)
        parallel.check_batch_size(batch_size, mesh, self.config.optimizer.get("accumulation_steps", 1))
        network = self.denoiser.network
        if mesh.shape["tensor"] > 1 and not hasattr(network, "tensor_axis"):
            raise ValueError(
                f"mesh.tensor={mesh.shape['tensor']} needs a network that says which axes to divide, and "
                f"{type(network).__name__} does not; set mesh.tensor=1 and divide the parameters with mesh.fsdp."
            )
        return mesh

    @functools.cached_property
    def train_source(self) -> Source:
        return build("data.train", SOURCES, _fields(self.config.data.train))

    @functools.cached_property
    def eval_source(self) -> Source:
        return build("data.eval", SOURCES, _fields(self.config.data.eval))

    @functools.cached_property
    def spec(self) -> DataSpec:
        """Of one example, after cropping: what the network sees and samples are made of."""
        return self.train_batches.spec

    @functools.cached_property
    def train_batches(self) -> TrainBatches:
        return TrainBatches(
            source=self.train_source,
            batch_size=self.config.training.batch_size,
            seed=self.config.seed,
            **self._part_of_batch,
            **_fields(self.config.data.augment),
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
        crop = _fields(self.config.data.augment).get("crop")
        return EvalBatches(source=source, batch_size=batch_size, crop=crop, **self._part_of_batch)

    @functools.cached_property
    def solver(self) -> Solver:
        section = _fields(self.config.sampling.solver)
        return build("sampling.solver", SOLVERS, section, predictor=SOLVERS, corrector=SOLVERS, solver=SOLVERS)

    @functools.cached_property
    def grid(self) -> Grid:
        return build("sampling.grid", GRIDS, _fields(self.config.sampling.grid), grid=GRIDS, inner=GRIDS)

    @functools.cached_property
    def generator(self) -> Generator:
        """Draws with the solver, grid, condition and thresholding of `config.sampling`, over the mesh."""
        how = self.solver, self.grid, self.spec.shape, self.mesh, self.sampling_condition, self.threshold
        return Generator(self.denoiser, *how)

    @functools.cached_property
    def threshold(self) -> Callable[[Denoise], Denoise]:
        """The wrapper of a denoiser in `config.sampling.threshold`, a field that a config need not have; None is none."""
        section = self.config.sampling.get("threshold")
        if section is None:
            return lambda denoise: denoise
        if not isinstance(section, ConfigDict):
            raise ValueError(f"config.sampling.threshold needs a section with a name or None, got {section!r}.")
        fields = _fields(section)
        # Built once around nothing, so that a mistake is named before anything is drawn.
        built = build("sampling.threshold", THRESHOLDS, fields, _no_denoise, self.sde)
        return lambda denoise: dataclasses.replace(built, denoise=denoise)

    @functools.cached_property
    def noise_level_loss(self) -> NoiseLevelLoss:
        return NoiseLevelLoss(self.denoiser, noise_levels(self.sde, self.config.training.get("eval_levels", 9)))

    @functools.cached_property
    def log_prob(self) -> LogProb:
        section = self.config.likelihood
        divergence = build("likelihood.divergence", DIVERGENCES, _fields(section.divergence))
        return LogProb(
            adaptive=Adaptive(rtol=section.rtol, atol=section.atol), t_min=section.t_min, divergence=divergence
        )

    def run_key(self, purpose: str) -> jax.Array:
        """The key of one use of the seed: "init", "train", "sample", "likelihood" or "evaluate"."""
        purposes = ("init", "train", "sample", "likelihood", "evaluate")
        return jax.random.fold_in(jax.random.key(self.config.seed), purposes.index(purpose))

    def init_state(self) -> TrainState:
        """The state at step 0, where `state_sharding` puts it; each device draws its own part."""
        # Only shapes matter; all processes must give the same numbers, and their examples are not the same.
        batch = jax.tree.map(lambda like: np.zeros(like.shape, like.dtype), self._batch_of_one)
        # Each parameter is another small random program, run once: what takes long is the compiler, a third of it at level 1.
        options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
        create = jax.jit(self._create_state, out_shardings=self.state_sharding, compiler_options=options)
        return create(self.run_key("init"), batch)

    def state_shapes(self) -> TrainState:
        """Shapes, types and shardings of the state, without computing it."""

        def with_sharding(leaf, sharding):
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

        return jax.tree.map(with_sharding, self._state_shapes, self.state_sharding)

    @functools.cached_property
    def state_sharding(self) -> TrainState:
        """Of each array of the state."""
        return state_sharding(self._state_shapes, self.denoiser, self.mesh)

    @functools.cached_property
    def _state_shapes(self) -> TrainState:
        return jax.eval_shape(self._create_state, self.run_key("init"), self._batch_of_one)

    def batch_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes, types and shardings of a global batch, by reading one example."""
        size, sharding = self.config.training.batch_size, parallel.batch_sharding(self.mesh)
        return {
            name: jax.ShapeDtypeStruct((size, *like.shape[1:]), like.dtype, sharding=sharding)
            for name, like in self._batch_of_one.items()
        }

    @functools.cached_property
    def _batch_of_one(self) -> dict[str, jax.ShapeDtypeStruct]:
        one = dataclasses.replace(self.train_batches, batch_size=1, process_index=0, process_count=1)[0]
        return {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in one.items()}

    def _create_state(self, key, batch) -> TrainState:
        params = self.denoiser.init(key, batch, condition_of(batch))
        return create_state(params, self.optimizer, tuple(self.config.ema.half_lives_kimg))

    def train_step(
        self, *, denoiser: Denoiser | None = None, mesh: Mesh | None = None, accumulation_steps: int | None = None
    ) -> CompiledStep:
        """The training step, of `config` but for what is given."""
        if accumulation_steps is None:
            accumulation_steps = self.config.optimizer.get("accumulation_steps", 1)
        return make_train_step(
            self.run_key("train"),
            denoiser or self.denoiser,
            self.objective,
            self.optimizer,
            mesh or self.mesh,
            batch_size=self.config.training.batch_size,
            rampup_ratio=self.config.ema.rampup_ratio,
            accumulation_steps=accumulation_steps,
        )

    def sampling_condition(self, first_index: int, number: int) -> Condition:
        """The condition of images first_index … first_index + number − 1: classes in turn, or `sampling.label` for all.

        Raises: ValueError for a network whose condition is not a label alone.
        """
        spec, label = self.spec, self.config.sampling.get("label")
        others = [name for name in spec.conditions if name != "label"]
        if others:
            raise ValueError(
                f"Sampling from a config gives labels only; this model also needs {others}: call sample() itself."
            )
        if spec.num_classes is None:
            return {}
        if label is not None and not 0 <= label <= spec.num_classes:
            raise ValueError(
                f"sampling.label needs 0 <= label < {spec.num_classes}, or None for all in turn, got {label}."
            )
        indices = np.arange(first_index, first_index + number)
        labels = indices % spec.num_classes if label is None else np.full(number, label)
        return {"label": jnp.asarray(labels, jnp.int32)}

    def write_config(self, workdir: pathlib.Path) -> None:
        """Writes workdir/config.json, from which `from_workdir` builds the same experiment."""
        write_json(workdir / CONFIG_FILE, plain(self.config))


def _no_denoise(x, t):
    raise NotImplementedError("This thresholding is around no denoiser yet.")


def from_workdir(workdir: str | pathlib.Path, overrides: Sequence[str] = ()) -> Experiment:
    """The experiment that was trained in `workdir`, with `overrides` such as "sampling.grid.num_steps=50".

    Raises: FileNotFoundError when nothing was trained there; ValueError for an override of an unknown field.
    """
    path = pathlib.Path(workdir) / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"No config.json in {path.parent}; train there first, or name the --workdir of a run.")
    config = ConfigDict(json.loads(path.read_text()))
    for override in overrides:
        apply_override(config, override)
    return Experiment(config)


def apply_override(config: ConfigDict, override: str) -> None:
    """Sets "FIELD.FIELD=VALUE" in a config: VALUE is read as a Python literal, else as a string; {…} replaces a section.

    Raises: ValueError without an "=", or for a field that the config does not have and that is not optional.
    """
    path, equals, text = override.partition("=")
    *parents, field = path.split(".")
    section = config
    for name in parents:
        section = section.get(name) if isinstance(section, ConfigDict) else None
    exists = isinstance(section, ConfigDict) and (field in section or path in OPTIONAL_FIELDS)
    if not equals or not exists:
        known = list(section) if isinstance(section, ConfigDict) else list(config)
        raise ValueError(
            f"An override needs FIELD=VALUE with a field of the config, got {override!r}; known here: {known}."
            f"{closest(field, known)}"
        )
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    with section.unlocked(), section.ignore_type():
        section[field] = ConfigDict(value) if isinstance(value, dict) else value


def _fields(section: ConfigDict) -> dict[str, Any]:
    """A section as plain nested dicts, with lists as tuples, which Flax modules can hash."""

    def convert(value):
        if isinstance(value, dict):
            return {name: convert(v) for name, v in value.items()}
        return tuple(convert(v) for v in value) if isinstance(value, list | tuple) else value

    return convert(section.to_dict())
