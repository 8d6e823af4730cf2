"""The config.json of a run. Training writes it. It is read, with overrides, to build the same experiment again."""

import logging
import pathlib
from collections.abc import Sequence

from ml_collections import ConfigDict

from score_sde.catalogues import CATALOGUES
from score_sde.config import apply_overrides, completed, differences, plain, section_at
from score_sde.experiment import Experiment
from score_sde.internal.files import read_json
from score_sde.training.description import CONFIG_FILE, Description


def describe(experiment: Experiment) -> Description:
    """The config, with the sizes that it leaves to the data."""
    return Description(CONFIG_FILE, experiment.resolved, lambda config: completed(config, CATALOGUES))


def write_config(experiment: Experiment, workdir: pathlib.Path) -> None:
    """Writes workdir/config.json, from which `from_workdir` builds the same experiment."""
    describe(experiment).write(workdir)


def from_workdir(workdir: str | pathlib.Path, overrides: Sequence[str] = ()) -> Experiment:
    """The experiment that was trained in `workdir`, with `overrides` such as "sampling.grid.num_steps=50".

    Raises: FileNotFoundError when nothing was trained there. ValueError for an override of an
      unknown field.
    """
    path = pathlib.Path(workdir) / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"No config.json in {path.parent}; train there first, or name the --workdir of a run.")
    content = read_json(path, "restore it from a backup, or train with the same --config again, which writes it")
    config = ConfigDict(content)
    trained = config.copy_and_resolve_references()
    for override in overrides:
        apply_override(config, override)
    _warn_of_another_model(trained, config)
    return Experiment(config)


def apply_override(config: ConfigDict, override: str) -> None:
    """Sets "FIELD.FIELD=VALUE" in a config, as `score_sde.config.overrides` reads it.

    Raises: ValueError without an "=", for a path that is not a field, or for a text that is not a
      value of the field.
    """
    path, equals, text = override.partition("=")
    if not equals:
        raise ValueError(f"An override needs FIELD=VALUE, as sampling.grid.num_steps=50, got {override!r}.")
    apply_overrides(config, [(path, text)], CATALOGUES)


def _warn_of_another_model(trained: ConfigDict, config: ConfigDict) -> None:
    """Warns where the output of a network would get another meaning than in its training."""
    found = {
        name: differences({name: plain(trained)[name]}, {name: plain(config)[name]})
        for name in ("sde", "parameterization")
    }
    if found["parameterization"]:
        logging.warning(
            "The network was trained to predict something else (%s), so its output is misread.",
            "; ".join(found["parameterization"]),
        )
    if found["sde"] and section_at(trained, "parameterization.noise_label.name") == "time":
        logging.warning(
            "The network was told the time t. At each t, another SDE has another noise level (%s). Only a network that is told "
            "the noise level itself, as by parameterization.noise_label=log_sigma, works with another SDE.",
            "; ".join(found["sde"]),
        )
