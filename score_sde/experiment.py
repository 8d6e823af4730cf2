"""The composition root: a ConfigDict becomes objects. The only place that reads a whole config."""

import ast
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh
from ml_collections import ConfigDict

from score_sde import parallel
from score_sde.adaptive import Adaptive
from score_sde.building import Part, build, check_fields, check_kind, check_path
from score_sde.data import (
    SOURCES,
    DataSpec,
    EvalBatches,
    Source,
    Subset,
    TrainBatches,
    class_number,
    numbered_like,
    with_sizes,
)
from score_sde.denoiser import Condition, Denoiser, Uncertainty
from score_sde.dynamics import Denoise
from score_sde.evaluation import NoiseLevelLoss, noise_levels
from score_sde.files import read_json, write_json
from score_sde.generation import Generator
from score_sde.likelihood import DIVERGENCES, LogProb
from score_sde.networks import NETWORKS
from score_sde.objectives import OBJECTIVES, TIME_SAMPLERS, WEIGHTINGS, Objective
from score_sde.parameterizations import NOISE_LABELS, PARAMETERIZATIONS, Parameterization
from score_sde.plain_config import SECTION_FIELDS, is_whole, plain, section_at, shared_sections
from score_sde.sdes import SDE, SDES
from score_sde.solvers import GRIDS, SOLVERS, Grid, Solver
from score_sde.thresholding import THRESHOLDS
from score_sde.training.optimizers import build_optimizer
from score_sde.training.state import TrainState, create_state, state_sharding
from score_sde.training.step import CompiledStep, make_train_step

CONFIG_FILE = "config.json"
_SIZES = {"num_classes", "embedding_dim"}  # of a network, which the data determine where the config does not
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
# The sections that become an object of a catalogue.
PARTS = {
    "sde": Part(SDES),
    "parameterization": Part(PARAMETERIZATIONS, {"noise_label": NOISE_LABELS}),
    "network": Part(NETWORKS),
    "objective": Part(OBJECTIVES, {"weighting": WEIGHTINGS, "time_sampler": TIME_SAMPLERS}, num_args=1),
    "data.train": Part(SOURCES),
    "data.eval": Part(SOURCES),
    "sampling.solver": Part(SOLVERS, dict.fromkeys(("predictor", "corrector", "solver"), SOLVERS)),
    "sampling.grid": Part(GRIDS, {"grid": GRIDS, "inner": GRIDS}),
    "sampling.threshold": Part(THRESHOLDS, num_args=2),
    "likelihood.divergence": Part(DIVERGENCES),
}


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Every object that a config names, each built once, when it is first asked for.

    Raises: ValueError for an unknown section, name or field, or a value that a component refuses.
    """

    config: ConfigDict

    def __post_init__(self):
        missing = [name for name in (*SECTIONS, "seed") if name not in self.config]
        unknown = [name for name in self.config if name not in (*SECTIONS, "seed")]
        if missing or unknown:
            raise ValueError(
                f"A config needs the sections {SECTIONS} and a seed; missing {missing}, unknown {unknown}."
            )
        for first, second in shared_sections(self.config):
            raise ValueError(
                f"config.{first} and config.{second} are one object, so that a field set in one is set in both; give each "
                "its own in the config file, as by copy.deepcopy."
            )
        if not is_whole(self.config.seed, 0):
            raise ValueError(f"config.seed needs a whole number >= 0, got {self.config.seed!r}.")
        if "num_devices" in self.config.training:
            raise ValueError(
                f"training.num_devices is now mesh.num_devices, got {self.config.training.num_devices}; move it to the "
                "section mesh."
            )
        for path, fields in SECTION_FIELDS.items():
            check_fields(path, section_at(self.config, path), fields)
        for path, part in PARTS.items():
            section = section_at(self.config, path)
            if section is not None or path not in OPTIONAL_FIELDS:
                part.check(path, section)
        self.optimizer  # noqa: B018  its fields are checked as it is built

    def _build(self, path: str, *args: Any) -> Any:
        """The object of the section at `path`."""
        part = PARTS[path]
        return build(path, part.catalogue, _fields(section_at(self.config, path)), *args, **part.nested)

    @functools.cached_property
    def sde(self) -> SDE:
        return self._build("sde")

    @functools.cached_property
    def parameterization(self) -> Parameterization:
        return self._build("parameterization")

    @functools.cached_property
    def denoiser(self) -> Denoiser:
        learned = self.config.objective.get("learned_uncertainty", False)
        return Denoiser(self.sde, self.parameterization, self._network, Uncertainty() if learned else None)

    @functools.cached_property
    def _network(self) -> nn.Module:
        """Where the config gives the sizes that the data determine, it is built without the data."""
        section, sizes = self.config.network, _SIZES & set(PARTS["network"].defaults(self.config.network.name))
        fields = _fields(section) if all(section.get(name) is not None for name in sizes) else self._network_fields
        return build("network", NETWORKS, fields)

    @functools.cached_property
    def _network_fields(self) -> dict[str, Any]:
        """`config.network` with the sizes of the data. Raises: ValueError where it has others."""
        section = _fields(self.config.network)
        return with_sizes(section, PARTS["network"].defaults(section["name"]), self.train_source.spec)

    @functools.cached_property
    def resolved(self) -> dict[str, Any]:
        """The config as plain JSON values, with the sizes that the data determine where it leaves them to them."""
        return plain(self.config) | {"network": plain(self._network_fields)}

    @functools.cached_property
    def objective(self) -> Objective:
        return self._build("objective", self.sde)

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformation:
        for path in ("optimizer", "optimizer.schedule"):
            section = section_at(self.config, path) or ConfigDict()
            if not isinstance(section, ConfigDict):
                raise ValueError(f"config.{path} needs a section, as in configs/base.py, got {section!r}.")
        fields = _fields(self.config.optimizer)
        return build_optimizer(**{name: value for name, value in fields.items() if name != "accumulation_steps"})

    @functools.cached_property
    def mesh(self) -> Mesh:
        """Of the sizes in `config.mesh`; where none is given, of all devices that share the batch evenly.

        Raises: ValueError for sizes that do not fit the devices, the batch or the network.
        """
        free: dict[str, int | None] = {"num_devices": None, "data": None, "fsdp": 1, "tensor": 1}
        section, batch_size = free | _fields(self.config.mesh), self.config.training.batch_size
        mesh = parallel.mesh_for_batch(batch_size) if section == free else parallel.make_mesh(**section)
        parallel.check_batch_size(batch_size, mesh, self.config.optimizer.get("accumulation_steps", 1))
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
        return self._build("sampling.solver")

    @functools.cached_property
    def grid(self) -> Grid:
        return self._build("sampling.grid")

    @functools.cached_property
    def generator(self) -> Generator:
        """Draws with the solver, grid, condition and thresholding of `config.sampling`, over the mesh."""
        how = self.solver, self.grid, self.spec.shape, self.mesh, self.sampling_condition, self.threshold
        return Generator(self.denoiser, *how)

    @functools.cached_property
    def threshold(self) -> Callable[[Denoise], Denoise]:
        """The wrapper of a denoiser in `config.sampling.threshold`, a field that a config need not have; None is none."""
        if self.config.sampling.get("threshold") is None:
            return lambda denoise: denoise
        # Built once around nothing, so that a mistake is named before anything is drawn.
        built = self._build("sampling.threshold", _no_denoise, self.sde)
        return lambda denoise: dataclasses.replace(built, denoise=denoise)

    @functools.cached_property
    def noise_level_loss(self) -> NoiseLevelLoss:
        return NoiseLevelLoss(self.denoiser, noise_levels(self.sde, self.config.training.get("eval_levels", 9)))

    @functools.cached_property
    def log_prob(self) -> LogProb:
        section = self.config.likelihood
        adaptive = Adaptive(rtol=section.rtol, atol=section.atol)
        return LogProb(adaptive=adaptive, t_min=section.t_min, divergence=self._build("likelihood.divergence"))

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
        self._network_fields  # noqa: B018  a network of other sizes than the data's is refused
        return jax.eval_shape(self._create_state, self.run_key("init"), self._batch_of_one)

    def batch_shapes(self) -> dict[str, Any]:
        """Shapes, types and shardings of a global batch, by reading one example."""
        size, sharding = self.config.training.batch_size, parallel.batch_sharding(self.mesh)

        def shape_of(like):
            return jax.ShapeDtypeStruct((size, *like.shape[1:]), like.dtype, sharding=sharding)

        return jax.tree.map(shape_of, self._batch_of_one)

    @functools.cached_property
    def _batch_of_one(self) -> dict[str, Any]:
        one = dataclasses.replace(self.train_batches, batch_size=1, process_index=0, process_count=1)[0]
        return jax.tree.map(lambda value: jax.ShapeDtypeStruct(value.shape, value.dtype), one)

    def _create_state(self, key, batch) -> TrainState:
        params = self.denoiser.init(key, batch, batch["condition"])
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
        """The condition of images first_index … first_index + number − 1, each a function of its image's index alone.

        A model that is told labels alone gets the classes in turn, or `sampling.label` (a number or a name) for all. A
        model that is told more gets all conditions of image i from one held-out example, so that they agree: from example
        i mod n of the n in `data.eval`, or of the n of class `sampling.label`.

        Raises: ValueError for a label that is no class or of which no example is held out, or held-out data without the
        conditions of the training data.
        """
        spec, label = self.spec, self.config.sampling.get("label")
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
        examples = self.eval_source.gather(rows[indices % len(rows)])
        return {name: jnp.asarray(examples[name]) for name in spec.conditions}

    def _rows_of_class(self, label: int | None) -> np.ndarray:
        """The indices of the held-out examples of a class; None is all of them."""
        self.check_held_out()
        if label is None:
            return np.arange(len(self.eval_source))
        rows = np.flatnonzero(self._eval_labels == label)
        if not rows.size:
            raise ValueError(
                f"sampling.label={self.config.sampling.label!r} needs a held-out example of this class, since a model that is "
                "told more than labels gets all of an image's conditions from one example; config.data.eval has none."
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


def _no_denoise(x, t):
    raise NotImplementedError("This thresholding is around no denoiser yet.")


def from_workdir(workdir: str | pathlib.Path, overrides: Sequence[str] = ()) -> Experiment:
    """The experiment that was trained in `workdir`, with `overrides` such as "sampling.grid.num_steps=50".

    Raises: FileNotFoundError when nothing was trained there; ValueError for an override of an unknown field.
    """
    path = pathlib.Path(workdir) / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"No config.json in {path.parent}; train there first, or name the --workdir of a run.")
    content = read_json(path, "restore it from a backup, or train with the same --config again, which writes it")
    config = ConfigDict(content)
    for override in overrides:
        apply_override(config, override)
    return Experiment(config)


def apply_override(config: ConfigDict, override: str) -> None:
    """Sets "FIELD.FIELD=VALUE" in a config: VALUE is read as a Python literal, else as a string; {…} replaces a section.

    Raises: ValueError without an "=", for a field that the config does not have and that is not optional, or for a value of
    another kind.
    """
    path, equals, text = override.partition("=")
    if not equals:
        raise ValueError(f"An override needs FIELD=VALUE, as sampling.grid.num_steps=50, got {override!r}.")
    check_path(config, path, OPTIONAL_FIELDS)
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    parents, _, field = path.rpartition(".")
    section = section_at(config, parents) if parents else config
    if path not in OPTIONAL_FIELDS:  # whose own check allows more than one kind
        check_kind(path, section.get(field), value)
    with section.unlocked(), section.ignore_type():
        section[field] = ConfigDict(value) if isinstance(value, dict) else value


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """A plain config with the fields that its sections leave out, as what they build has them."""
    filled = plain(ConfigDict(config))
    for path, part in PARTS.items():
        section = section_at(filled, path)
        if section is not None:
            section |= plain(part.defaults(section.get("name"))) | section
            section |= {name: None for name, value in section.items() if value in ([], {})}  # nothing is nothing
            section |= {
                name: 0 for name in _SIZES & section.keys() if section[name] is None
            }  # as before sizes could be None
    return filled


def _fields(section: ConfigDict) -> dict[str, Any]:
    """A section as plain nested dicts, with lists as tuples, which Flax modules can hash."""

    def convert(value):
        if isinstance(value, dict):
            return {name: convert(v) for name, v in value.items()}
        return tuple(convert(v) for v in value) if isinstance(value, list | tuple) else value

    return convert(section.to_dict())
