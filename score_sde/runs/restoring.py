"""Checkpoints of a run as states and parameters."""

import contextlib
import pathlib
from collections.abc import Collection

from score_sde.experiment import Experiment
from score_sde.training.logs.stages import stage
from score_sde.training.saving.checkpoints import Checkpoints
from score_sde.training.state import Params, TrainState


def pick_params(state: TrainState, ema: str | None) -> Params:
    """The average with the half-life `ema` (in thousands of images; None: the first), or the raw parameters ("none").

    Raises: ValueError for a half-life that was not kept.
    """
    if ema == "none" or not state.ema:
        return state.params
    return state.ema[next(iter(state.ema)) if ema is None else average_name(state.ema, ema)]


def average_name(names: Collection[str], ema: str) -> str:
    """The name of the average with the half-life `ema`, however the number is written: "500.0" is "500".

    Raises: ValueError for a half-life that was not kept.
    """
    for name in names:
        if name == ema or (_is_number(ema) and float(name) == float(ema)):
            return name
    raise ValueError(f"--ema needs one of {[*names, 'none']} (half-lives in thousands of images), got {ema!r}.")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


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
