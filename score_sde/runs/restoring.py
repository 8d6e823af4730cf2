"""Checkpoints of a run as states and parameters."""

import contextlib
import pathlib

from score_sde.experiment import Experiment
from score_sde.training.checkpoints import Checkpoints
from score_sde.training.stages import stage
from score_sde.training.state import Params, TrainState


def pick_params(state: TrainState, ema: str | None) -> Params:
    """The average with the half-life `ema` (in thousands of images; None: the first), or the raw parameters ("none").

    Raises: ValueError for a half-life that was not kept.
    """
    if ema == "none" or not state.ema:
        return state.params
    name = next(iter(state.ema)) if ema is None else ema
    if name not in state.ema:
        raise ValueError(f"--ema needs one of {[*state.ema, 'none']} (half-lives in thousands of images), got {ema!r}.")
    return state.ema[name]


def open_checkpoints(experiment: Experiment, workdir: pathlib.Path) -> Checkpoints:
    """The checkpoints of a run in `workdir`."""
    training = experiment.settings.training
    return Checkpoints(workdir, keep=training.keep_checkpoints, keep_every=training.keep_every)


def restore(experiment: Experiment, workdir: pathlib.Path, step: int | None = None) -> TrainState:
    """The state at `step` (None: the newest); nothing is written, so a run may be training there.

    Raises: FileNotFoundError when there is none; ValueError when it does not fit the config.
    """
    with contextlib.closing(Checkpoints(workdir, read_only=True)) as checkpoints, stage("reading the checkpoint"):
        return checkpoints.restore(experiment.state_shapes(), step)
