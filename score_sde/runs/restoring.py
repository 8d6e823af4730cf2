"""States from the checkpoints of a run."""

import contextlib
import pathlib

from score_sde.experiment import Experiment
from score_sde.training.logs.stages import stage
from score_sde.training.saving.checkpoints import Checkpoints
from score_sde.training.state import TrainState


def restore(experiment: Experiment, workdir: pathlib.Path, step: int | None = None) -> TrainState:
    """The state at `step` (None: the newest). It writes nothing, so a run may be training in the folder.

    Raises: FileNotFoundError when there is no checkpoint. ValueError when it does not fit the
      config.
    """
    with contextlib.closing(Checkpoints(workdir, read_only=True)) as checkpoints, stage("reading the checkpoint"):
        return checkpoints.restore(experiment.recipe.state_shapes(), step)
