"""A trained model, loaded from a run: its step, its average of the parameters, and its settings for sampling."""

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, Shaped

from score_sde.data import DataSpec, EvalBatches, class_number
from score_sde.denoising.denoiser import Condition, Denoiser
from score_sde.denoising.dynamics import Denoise
from score_sde.experiment import Experiment
from score_sde.generation.conditions import SamplingConditions
from score_sde.generation.generator import Generated, Generator
from score_sde.guidance import Guidance
from score_sde.likelihood import LogDensity, LogProb
from score_sde.run_config import from_workdir
from score_sde.solvers import Heun, Solver
from score_sde.solvers.grids import EDMRho, Grid, Uniform
from score_sde.tasks import Denoising
from score_sde.training.description import CONFIG_FILE, DESCRIPTION_FILE
from score_sde.training.logs.stages import stage
from score_sde.training.recipe import Recipe
from score_sde.training.saving.checkpoints import Checkpoints
from score_sde.training.state import Params, TrainState, average_name, pick_params, with_averages

Conditions = Mapping[str, Shaped[np.ndarray, "n *any"] | Shaped[Array, "n *any"]]


@dataclasses.dataclass(frozen=True, eq=False)
class Plain:
    """The settings of a model without a config.

    Attributes:
      recipe: the task, the data and the devices.
      solver: the solver of samples. None is Heun's method.
      grid: the times of a solve. None is 32 steps. They are spaced in the noise level as in EDM
        where the SDE leaves some signal at t_max, and uniform in time where it leaves none.
      held_out: the held-out examples, whose conditions samples get if the model has more conditions
        than labels.
      log_prob: computes log-densities.
    """

    recipe: Recipe
    solver: Solver | None = None
    grid: Grid | None = None
    held_out: EvalBatches | None = None
    log_prob: LogProb = dataclasses.field(default_factory=LogProb)

    @property
    def spec(self) -> DataSpec:
        """The spec of one example."""
        return self.recipe.spec

    @property
    def denoiser(self) -> Denoiser:
        """The denoiser that is trained.

        Raises: ValueError where the task trains another model.
        """
        task = self.recipe.task
        if not isinstance(task, Denoising):
            raise ValueError(
                f"This needs a task that trains a denoiser, and {type(task).__name__} trains another model."
            )
        return task.denoiser

    @functools.cached_property
    def generator(self) -> Generator:
        """Draws samples, with the classes in turn or with the conditions of held-out examples."""
        sde, recipe = self.denoiser.sde, self.recipe
        grid = self.grid or (EDMRho(32) if np.isfinite(sde.log_snr(float(sde.t_max))) else Uniform(32))
        condition = SamplingConditions(recipe.spec, None, self._held_out)
        return Generator(
            self.denoiser, self.solver or Heun(), grid, recipe.spec.shape, recipe.mesh, condition, place=recipe.place
        )

    def run_key(self, purpose: str) -> Key[Array, ""]:
        """The key of one use of the seed."""
        return self.recipe.run_key(purpose)

    def _held_out(self) -> EvalBatches:
        if self.held_out is None:
            raise ValueError(
                f"The model needs the conditions {sorted(self.recipe.spec.conditions)}; give them, as in sample(num, key, "
                "condition=…), or give the trainer eval_data, whose conditions samples then get."
            )
        return self.held_out


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A trained model: it draws samples, denoises, and computes log-densities.

    Attributes:
      model: the experiment of the run's config, or the settings of a run without a config.
      step: the step after which the parameters were saved.
      average: the half-life of the average in thousands of images. "none" is the parameters
        themselves.
      params: the parameters of the model.
      workdir: the folder of the run, or None.
    """

    model: Experiment | Plain
    step: int
    average: str
    params: Params
    workdir: pathlib.Path | None = None

    @property
    def experiment(self) -> Experiment:
        """The experiment of the run's config.

        Raises: ValueError for a run without a config.
        """
        if not isinstance(self.model, Experiment):
            raise ValueError("This needs a run that was trained with a config, and this one was trained without.")
        return self.model

    @property
    def folder(self) -> pathlib.Path:
        """The folder of the run.

        Raises: ValueError for a run without a folder.
        """
        if self.workdir is None:
            raise ValueError(
                "This needs the folder of a run, and this one was trained without; give its trainer a workdir."
            )
        return self.workdir

    @property
    def spec(self) -> DataSpec:
        """The spec of one sample, after decoding."""
        return self.model.spec

    @property
    def denoiser(self) -> Denoiser:
        """The denoiser, without parameters.

        Raises: ValueError where the task trains another model.
        """
        return self.model.denoiser

    @functools.cached_property
    def placed(self) -> Params:
        """The parameters on the devices, placed for the generator."""
        return self.model.recipe.place(self.params)

    def denoise(self, condition: Conditions | None = None) -> Denoise:
        """denoise(x, t) -> (x̂0, ε̂) with these parameters. `condition` has one row for each row of x."""
        given = {name: jnp.asarray(values) for name, values in (condition or {}).items()}
        return self.denoiser.bind(self.placed, given)

    def sample(
        self,
        num: int,
        key: Key[Array, ""],
        *,
        labels: Sequence[int | str] | int | str | None = None,
        condition: Conditions | None = None,
        solver: Solver | None = None,
        grid: Grid | None = None,
        guidance: Sequence[Guidance] | None = None,
        batch_size: int | None = None,
    ) -> Shaped[np.ndarray, "num *shape"]:
        """Draws examples like the training examples, in the same units.

        Quantized data, such as 8-bit images, are returned in whole levels, 0…255 as uint8.
        Continuous data are returned in float32, in the units of the model. `generate` returns the
        units of the model for both, with conditions and evaluations.

        Args:
          num: the number of examples. Image i has its own noise, from fold_in(key, i).
          labels: the class of each example, or one class for all, by number or by name. None is the
            classes in turn.
          condition: all conditions of each example, by name: arrays [num, …].
          solver: replaces the run's solver. `grid` and `guidance` replace the run's in the same
            way.
          batch_size: the number of examples per batch. None is all.
        Raises: ValueError for labels or conditions that the model does not take, or with another
          number of rows.
        """
        given = {"labels": labels, "condition": condition, "batch_size": batch_size}
        how: dict[str, Any] = {**given, "solver": solver, "grid": grid, "guidance": guidance}
        drawn = self.generate(num, key, **how)
        return drawn.x if self.spec.levels is None else self.spec.quantize(drawn.x)

    def generate(
        self,
        num: int,
        key: Key[Array, ""],
        *,
        labels: Sequence[int | str] | int | str | None = None,
        condition: Conditions | None = None,
        batch_size: int | None = None,
        first_index: int = 0,
        solver: Solver | None = None,
        grid: Grid | None = None,
        guidance: Sequence[Guidance] | None = None,
    ) -> Generated:
        """Examples first_index … first_index + num − 1 as `sample` draws them, in the units of the model."""
        given = self._condition(num, labels, condition)
        rules = None if guidance is None else tuple(guidance)
        changes: dict[str, Any] = {"solver": solver, "grid": grid, "guidance": rules}
        if given:
            changes["condition"] = lambda first, count: _rows(given, first - first_index, count)
        changed = {name: value for name, value in changes.items() if value is not None}
        return self.model.generator._replace(**changed)(key, self.params, num, batch_size, first_index)

    def log_prob(
        self, x: Float[Array, "b *shape"], key: Key[Array, ""], condition: Conditions | None = None
    ) -> LogDensity:
        """The log-density of each x, in nats, by the run's settings. x has the units of the model."""
        return self.model.log_prob(key, self.denoise(condition), jnp.asarray(x, jnp.float32))

    def _condition(
        self, num: int, labels: Sequence[int | str] | int | str | None, condition: Conditions | None
    ) -> dict[str, Array]:
        """The given conditions as arrays.

        Raises: ValueError where the model does not take them.
        """
        known = self.spec.conditions
        given = {name: np.asarray(values) for name, values in (condition or {}).items()}
        if labels is not None:
            if self.spec.num_classes is None or "label" in given:
                raise ValueError(f"sample needs labels only where the model is told them, and once, got {labels!r}.")
            each = [labels] * num if isinstance(labels, int | str) else list(labels)
            given["label"] = np.asarray([class_number(label, self.spec, "labels") for label in each], np.int32)
        if given and set(given) != set(known):
            raise ValueError(
                f"sample needs all conditions of the model, {sorted(known)}, or none, got {sorted(given)}."
            )
        for name, values in given.items():
            if values.shape != (num, *known[name]):
                raise ValueError(
                    f"sample needs {name!r} of shape {(num, *known[name])}, a row for each example, got {values.shape}."
                )
        return {name: jnp.asarray(values) for name, values in given.items()}


def _rows(condition: Mapping[str, Array], first: int, count: int) -> Condition:
    """Rows first … first + count − 1. Rows beyond the end repeat the first rows, as padding that is cut off."""
    return {name: values[(first + np.arange(count)) % len(values)] for name, values in condition.items()}


def load(
    workdir: str | pathlib.Path, step: int | None = None, average: str | None = None, overrides: Sequence[str] = ()
) -> Trained:
    """The model that was trained in `workdir`, at the step of a checkpoint.

    Args:
      step: the step. None is the newest checkpoint.
      average: the half-life of the average in thousands of images. "none" is the parameters
        themselves, and None is the average with the shortest half-life.
      overrides: changed fields of the run's config, such as "sampling.grid.num_steps=50".
    Raises: FileNotFoundError where nothing was trained, or where there is no such checkpoint.
      ValueError for a checkpoint that is damaged or does not fit, an average that does not exist,
      or a run without a config.
    """
    folder = pathlib.Path(workdir)
    if not (folder / CONFIG_FILE).is_file() and (folder / DESCRIPTION_FILE).is_file():
        raise ValueError(
            f"The run in {workdir} was trained without a config. Only the program that trained it knows its task. "
            "Make the same task and data again, and call Trainer(task, data, workdir).load()."
        )
    return restored(from_workdir(folder, overrides), folder, step, average)


def restored(
    model: Experiment | Plain, workdir: pathlib.Path, step: int | None = None, average: str | None = None
) -> Trained:
    """`model` with the parameters of a checkpoint in `workdir`.

    It writes nothing, so a run may be training there.

    Raises: the errors of `load`.
    """
    state = read_state(model, workdir, step)
    name = average_name(state.ema, average)
    return Trained(model, int(state.step), name, pick_params(state, name), workdir)


def read_state(model: Experiment | Plain, workdir: pathlib.Path, step: int | None = None) -> TrainState:
    """The whole state at a checkpoint, with all averages and the optimizer's moments.

    Raises: the errors of `load`.
    """
    with contextlib.closing(Checkpoints(workdir, read_only=True)) as checkpoints, stage("reading the checkpoint"):
        # A run may have gone on with other averages since.
        like = with_averages(model.recipe.state_shapes(), checkpoints.averages(step))
        return checkpoints.restore(like, step)
