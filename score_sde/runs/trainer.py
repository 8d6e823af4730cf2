"""Training from plain Python: a task, data, and optionally a folder. A config builds the same trainer."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from score_sde import parallel
from score_sde.config import NO_CATALOGUES, checked_section, made, sections
from score_sde.data import EvalBatches, Source, TrainBatches, numbered_like
from score_sde.data.in_memory import as_source
from score_sde.experiment import Experiment
from score_sde.run_config import describe
from score_sde.runs.training import Job, Preview, run_job
from score_sde.runs.weights import InitFrom, parse_init_from
from score_sde.solvers import Solver
from score_sde.solvers.grids import Grid
from score_sde.tasks import Task
from score_sde.trained import Plain, Trained, restored
from score_sde.training.description import Description, description_of
from score_sde.training.optimizers import Optimizer, as_optimizer, optimizer_of
from score_sde.training.preemption import StopRequest
from score_sde.training.recipe import Recipe
from score_sde.training.reporter import Reporter
from score_sde.training.state import TrainState, average_name, pick_params

T = TypeVar("T")
Data = Source | np.ndarray | Mapping[str, np.ndarray]


class Trainer:
    """Trains a task on data.

    The folder keeps checkpoints, logs and pictures. The same program continues from the newest
    checkpoint. The settings of the run are written there as description.json. A program with other
    settings raises an error. The optimizer is not part of this description, because a
    transformation of optax cannot be read.

    Args:
      task: the task, such as `tasks.Denoising(denoiser, objective)`.
      data: the training set: an array [n, …], {"x": array, "label": array, …}, a source, or
        `TrainBatches`. The last also sets the batch size, flips and crops.
      workdir: the folder of the run. None writes nothing.
      eval_data: held-out examples of the same kind, or `EvalBatches`.
      optimizer: a transformation of optax. None is Adam with a learning rate of 2e-4, clipped to a
        norm of 1.
      seed: the random seed of parameters, batches, noise and samples.
      mesh: the devices. None is all devices that share a batch evenly.
      half_lives_kimg: the half-lives of averages of the parameters, in thousands of images. Samples
        are drawn with the average of the shortest half-life.
      rampup_ratio: keeps a half-life below this fraction of the images seen so far. None: no
        ramp-up.
      accumulation_steps: the number of parts of a batch that are differentiated one after the
        other, to save memory.
      solver: the solver of samples, on the times of `grid`; see `Plain`.
      num_preview: the number of samples of a picture during training.
      built_from: the experiment whose config names all of this. The run then saves the config.
      settings: fields of `config.sections.Training`: batch_size, log_every, eval_every,
        sample_every, checkpoint_every, keep_checkpoints, keep_every, nonfinite, max_skips,
        eval_batch_size.
    Raises: ValueError for an unknown setting, a value that is not allowed, or data that cannot be
      used.
    """

    def __init__(
        self,
        task: Task,
        data: Data | TrainBatches,
        workdir: str | pathlib.Path | None = None,
        *,
        eval_data: Data | EvalBatches | None = None,
        optimizer: optax.GradientTransformation | Optimizer | None = None,
        seed: int = 0,
        mesh: Mesh | None = None,
        half_lives_kimg: Sequence[float | int] = sections.Ema().half_lives_kimg,
        rampup_ratio: float | None = sections.Ema().rampup_ratio,
        accumulation_steps: int = 1,
        solver: Solver | None = None,
        grid: Grid | None = None,
        num_preview: int = 16,
        built_from: Experiment | None = None,
        **settings: Any,
    ):
        self._settings = _checked_settings(settings, data)
        size = self._settings.batch_size
        mesh = parallel.mesh_for_batch(size) if mesh is None else mesh
        parallel.check_batch_size(size, mesh, accumulation_steps)
        batches = data if isinstance(data, TrainBatches) else _train_batches(data, size, seed, mesh)
        averages = {"half_lives_kimg": tuple(half_lives_kimg), "rampup_ratio": rampup_ratio}
        ema = _checked("ema", sections.Ema, averages)
        self.recipe = Recipe(
            task,
            optimizer_of(sections.Optimizer()) if optimizer is None else as_optimizer(optimizer),
            batches,
            mesh,
            seed,
            tuple(ema.half_lives_kimg),
            ema.rampup_ratio,
            accumulation_steps,
        )
        self.workdir = None if workdir is None else pathlib.Path(workdir)
        self._held_out = _eval_batches(eval_data, self._settings, batches, mesh)
        if self._settings.eval_every and self._held_out is None:
            raise ValueError("Trainer needs eval_data, held-out examples, where eval_every is not 0.")
        self._built_from, self._num_preview = built_from, num_preview
        self._model = built_from or Plain(self.recipe, solver, grid, self._held_out)

    def run(
        self,
        num_steps: int,
        *,
        quiet: bool = False,
        profile_steps: tuple[int, int] | None = None,
        allow_change: Sequence[str] = (),
        init_from: InitFrom | str | None = None,
    ) -> Trained:
        """Trains to step `num_steps`, from the newest checkpoint of the folder or from the start. Returns the trained model.

        SIGTERM, Ctrl-C and a preemption notice save a checkpoint. The model trained so far is then
        returned.

        Args:
          quiet: whether to hide the progress bar.
          profile_steps: (start, stop): writes the profiler's trace of steps start … stop − 1 into
            workdir/profile.
          allow_change: fields or sections of description.json that may differ from the
            checkpoint's.
          init_from: the folder of another run, as "DIR" or "DIR@STEP", with whose weights a new run
            begins.
        Raises: the errors of `run_job`.
        """
        source = parse_init_from(init_from) if isinstance(init_from, str) else init_from
        with StopRequest() as stop:
            state = self.train(
                num_steps,
                stop,
                Reporter(quiet),
                profile_steps=profile_steps,
                allow_change=allow_change,
                init_from=source,
            )
        return self.trained(state)

    def train(self, num_steps: int, stop: StopRequest, reporter: Reporter, **how: Any) -> TrainState:
        """As `run`, inside of a StopRequest. Returns the state. `how` are the other fields of a `Job`."""
        with reporter.stage("building the data, the network and the solver"):
            job = self._job(num_steps, reporter)._replace(**how)
            job.check()
        return run_job(job, stop)

    def _job(self, num_steps: int, reporter: Reporter) -> Job:
        settings = _checked(
            "training", sections.Training, {**dataclasses.asdict(self._settings), "num_steps": num_steps}
        )
        made_from = self._built_from
        return Job(
            self.recipe,
            settings,
            self.description.of_length(num_steps),
            reporter,
            self.workdir,
            schedule=None if made_from is None else made_from.schedule,
            held_out=self._held_out,
            preview=self._preview() if settings.sample_every else None,
        )

    def _preview(self) -> Preview:
        return Preview(self._model.generator, self._num_preview, self._model.spec)

    def trained(self, state: TrainState) -> Trained:
        """The model with the average of the shortest half-life."""
        name = average_name(state.ema, None)
        return Trained(self._model, int(state.step), name, pick_params(state, name), self.workdir)

    def load(self, step: int | None = None, average: str | None = None) -> Trained:
        """The model at a checkpoint of the folder.

        Without a step it is the newest checkpoint. Without an average it is the average with the
        shortest half-life.

        Raises: ValueError without a folder, and the errors of `score_sde.load`.
        """
        if self.workdir is None:
            raise ValueError("A trainer without a workdir has no checkpoint to load; give it the folder of a run.")
        return restored(self._model, self.workdir, step, average)

    @property
    def description(self) -> Description:
        """The settings that the run saves."""
        if self._built_from is not None:
            return describe(self._built_from)
        recipe, training = self.recipe, dataclasses.asdict(self._settings)
        del training["eval_levels"]  # the task has this one
        return description_of(
            recipe.task,
            recipe.batches,
            recipe.seed,
            ema={"half_lives_kimg": recipe.half_lives_kimg, "rampup_ratio": recipe.rampup_ratio},
            optimizer={"accumulation_steps": recipe.accumulation_steps},
            training=training,
        )


def _checked_settings(given: dict[str, Any], data: Any) -> sections.Training:
    for name, whose in (
        ("num_steps", "run, as in Trainer(task, data, workdir).run(num_steps)"),
        ("eval_levels", "the task"),
    ):
        if name in given:
            raise ValueError(f"{name} is not an argument of Trainer, but of {whose}.")
    if isinstance(data, TrainBatches) and given.setdefault("batch_size", data.batch_size) != data.batch_size:
        raise ValueError(
            f"batch_size={given['batch_size']} differs from the batch_size of the batches, {data.batch_size}."
        )
    return _checked("training", sections.Training, given)


def _checked(path: str, section: type[T], given: Mapping[str, Any]) -> T:
    """The settings of a section.

    Raises: ValueError for an unknown name or a value that is not allowed.
    """
    try:
        return made(section, checked_section(path, section, given, NO_CATALOGUES))
    except ValueError as error:
        raise ValueError(str(error).replace(f"config.{path}", "Trainer")) from None


def _train_batches(data: Data, batch_size: int, seed: int, mesh: Mesh) -> TrainBatches:
    index, count = _part(mesh)
    source = as_source(data)
    return TrainBatches(source=source, batch_size=batch_size, seed=seed, process_index=index, process_count=count)


def _eval_batches(
    data: Data | EvalBatches | None, settings: sections.Training, batches: TrainBatches, mesh: Mesh
) -> EvalBatches | None:
    if data is None or isinstance(data, EvalBatches):
        return data
    index, count = _part(mesh)
    return EvalBatches(
        source=numbered_like(as_source(data), batches.source.spec, "eval_data"),
        batch_size=parallel.round_up(settings.eval_batch_size, mesh),
        crop=batches.crop,
        on_error=batches.on_error,
        process_index=index,
        process_count=count,
    )


def _part(mesh: Mesh) -> tuple[int, int]:
    """(the part of every batch that this process loads, the number of parts)."""
    return (0, 1) if jax.process_count() == 1 else parallel.batch_part(mesh)
