"""A sweep as a file describes it: get_sweep() returns a dict, as in configs/sweeps/digits_sdes.py.

config       FILE.py[:variant] of the base config
axes         {FIELD: [values] or {"name": "uniform" | "log_uniform" | "int" | "choice", …}};
             the field "config" is the file itself
search       {"name": "product" | "zip" | "random" | "optuna", …}; the default is product
overrides    {FIELD: value} of every trial
metric       a name, or the fields of Metric
then         commands after training, with {workdir}; a first word "python" is this interpreter
train        the command that trains; --config=…, --config.FIELD=… and --workdir=… are appended
max_retries  how often a preempted trial is started again automatically
environment  {NAME: text} of the trials' processes
slurm, tpu   the resources of a trial for the other launchers
"""

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from score_sde.config import build, call, closest
from score_sde.internal.programs import PROGRAM
from score_sde.sweeps.axes import Axis, build_axis
from score_sde.sweeps.metric import Metric
from score_sde.sweeps.optuna_search import Optuna
from score_sde.sweeps.search import Product, Random, Search, Zip

SEARCHES = {"product": Product, "zip": Zip, "random": Random, "optuna": Optuna}
TRAIN = (*PROGRAM, "train")


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The dict of get_sweep(), checked."""

    config: str
    axes: Mapping[str, Axis]
    search: Search
    metric: Metric
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    then: Sequence[Sequence[str]] = ()
    train: Sequence[str] = TRAIN
    max_retries: int = 3
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    slurm: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tpu: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def load_sweep(path: str) -> Sweep:
    """The sweep of FILE.py[:variant], whose get_sweep() or get_sweep(variant) returns a dict.

    Raises: FileNotFoundError when there is no such file. ValueError when it has unknown content.
    """
    return build_sweep(call(path, "get_sweep", "a dict", flag="--sweep"))


def build_sweep(given: Mapping[str, Any]) -> Sweep:
    """The Sweep of the dict that get_sweep() returns.

    Raises: ValueError for content that is missing, unknown or not accepted, with the closest name.
    """
    known = [field.name for field in dataclasses.fields(Sweep)]
    unknown = [name for name in given if name not in known]
    missing = [name for name in ("config", "axes", "metric") if not given.get(name)]
    if unknown or missing:
        hint = closest(unknown[0], known) if unknown else ""
        raise ValueError(f"A sweep has the fields {known}; missing {missing}, unknown {unknown}.{hint}")
    fields = {
        **given,
        "axes": {field: build_axis(field, axis) for field, axis in given["axes"].items()},
        "search": build("search", SEARCHES, given.get("search", {"name": "product"})),
        "metric": _metric(given["metric"]),
        "then": tuple(_words(command) for command in given.get("then", ())),
        "train": _words(given.get("train", TRAIN)),
    }
    both = sorted(fields["axes"].keys() & given.get("overrides", {}).keys())
    if both:
        raise ValueError(f"A sweep needs each field once, got {both} among both its axes and its overrides.")
    lacking = [shlex.join(command) for command in fields["then"] if not any("{workdir}" in word for word in command)]
    if lacking:
        raise ValueError(f"A command of `then` needs the word {{workdir}}, as --workdir={{workdir}}; got {lacking}.")
    return Sweep(**fields)


def _metric(given: str | Mapping[str, Any]) -> Metric:
    if isinstance(given, str):
        return Metric(given)
    known = [field.name for field in dataclasses.fields(Metric)]
    unknown = [name for name in given if name not in known]
    if unknown or "name" not in given:
        hint = closest(unknown[0], known) if unknown else ""
        raise ValueError(f"A metric needs a name, and has the fields {known}; got {dict(given)}.{hint}")
    return Metric(**given)


def _words(command: str | Sequence[str]) -> tuple[str, ...]:
    return tuple(shlex.split(command)) if isinstance(command, str) else tuple(command)
