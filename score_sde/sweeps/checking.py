"""Checks that a trial's config can be built, before any trial starts."""

from ml_collections import ConfigDict

from score_sde.experiment import Experiment
from score_sde.sweeps.trial import Trial

BUILT = ("sde", "parameterization", "denoiser", "objective", "optimizer", "solver", "grid", "log_prob")


def check_trial(trial: Trial) -> None:
    """Builds those parts of a trial that need neither data nor devices.

    Raises: ValueError for an unknown name or field, with the closest name, or for a value that a
      component does not accept.
    """
    try:
        experiment = Experiment(ConfigDict(trial.config))
        for name in BUILT:
            getattr(experiment, name)
    except ValueError as error:
        raise ValueError(f"The trial {trial.name} cannot run: {error}") from error
