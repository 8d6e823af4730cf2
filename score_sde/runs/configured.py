"""Training from a config: the config becomes a trainer."""

import dataclasses
import pathlib
from collections.abc import Sequence

from score_sde import parallel
from score_sde.data import EvalBatches
from score_sde.experiment import Experiment
from score_sde.runs.trainer import Trainer
from score_sde.runs.weights import InitFrom
from score_sde.training.preemption import StopRequest
from score_sde.training.reporter import Reporter
from score_sde.training.state import TrainState


def trainer_of(experiment: Experiment, workdir: str | pathlib.Path) -> Trainer:
    """The trainer of a config.

    Raises: ValueError or OSError from a section of the config.
    """
    settings, recipe = experiment.settings, experiment.recipe
    training = dataclasses.asdict(settings.training)
    del training["num_steps"], training["eval_levels"]  # `run` and the task get these two
    return Trainer(
        recipe.task,
        recipe.batches,
        workdir,
        eval_data=_held_out(experiment),
        optimizer=recipe.optimizer,
        seed=recipe.seed,
        mesh=recipe.mesh,
        half_lives_kimg=recipe.half_lives_kimg,
        rampup_ratio=recipe.rampup_ratio,
        accumulation_steps=recipe.accumulation_steps,
        num_preview=settings.sampling.num_preview,
        built_from=experiment,
        **training,
    )


def run_training(
    experiment: Experiment,
    workdir: str | pathlib.Path,
    quiet: bool = False,
    profile_steps: tuple[int, int] | None = None,
    allow_change: Sequence[str] = (),
    init_from: InitFrom | None = None,
) -> TrainState:
    """Trains in `workdir` up to `config.training.num_steps`, from the newest checkpoint if there is one.

    It returns the state. The state's step is before the last where the training was asked to stop.

    Args:
      allow_change: fields or sections of the config that may differ from the checkpoint's. "data"
        also means the data themselves.
      init_from: the weights with which a new run begins. An existing run continues from its
        checkpoint.
    Raises: the errors of `run_job`.
    """
    reporter = Reporter(quiet)
    with StopRequest() as stop:
        with reporter.stage("building the data, the network and the solver"):
            trainer = trainer_of(experiment, workdir)
        return trainer.train(
            experiment.settings.training.num_steps,
            stop,
            reporter,
            profile_steps=profile_steps,
            allow_change=allow_change,
            init_from=init_from,
        )


def _held_out(experiment: Experiment) -> EvalBatches | None:
    """The held-out examples, if training or its pictures use them."""
    size, spec = experiment.settings.training.eval_batch_size, experiment.spec
    told = set(spec.conditions) - {"label"} or experiment.sampling_condition.is_observed
    if not (experiment.settings.training.eval_every or told):
        return None
    return experiment.eval_batches(parallel.round_up(size, experiment.mesh), encoded=True)
