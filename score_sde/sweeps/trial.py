"""One trial of a sweep: its commands, its folder and its record.

The folder trials/<id> is the --workdir of the trial's commands. Besides their files it holds
trial.json (the trial), record.json (how it went) and log.txt (the output of its commands). The id
ends in a digest of the trial's point. So the same point is the same trial, whatever other values an
axis has.
"""

import dataclasses
import hashlib
import pathlib
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from score_sde.config import differences, lasting, plain
from score_sde.internal.files import read_json, write_json
from score_sde.internal.programs import current
from score_sde.sweeps.axes import canonical
from score_sde.sweeps.metric import last_step
from score_sde.sweeps.overrides import command_line
from score_sde.sweeps.search import Point
from score_sde.sweeps.spec import Sweep

TRIALS, LOG, SPEC, RECORD, JOB = "trials", "log.txt", "trial.json", "record.json", "job.txt"
STATES = ("pending", "queued", "requeued", "running", "stopped", "pruned", "failed", "finished")


@dataclasses.dataclass(frozen=True)
class Record:
    """How a trial has gone so far.

    Attributes:
      state: one of STATES.
      retries: how often a command was started again.
      done: the commands that ended with success, in order.
      seconds: the time of all commands together.
      message: why it failed: the exit status and the last line of the log.
    """

    state: str = "pending"
    retries: int = 0
    done: tuple[str, ...] = ()
    seconds: float = 0.0
    message: str = ""


@dataclasses.dataclass(frozen=True)
class Trial:
    """A point of the axes, with its commands and its folder.

    Attributes:
      name: a readable part and the digest.
      folder: the workdir of the trial.
      point: the value on each axis.
      config: the whole config as plain values.
      commands: training, then the others. Each is a list of words.
    """

    name: str
    folder: pathlib.Path
    point: Point
    config: Mapping[str, Any]
    commands: Sequence[Sequence[str]]

    @property
    def num_steps(self) -> int:
        """The step at which training ends."""
        return int(self.config["training"]["num_steps"])

    @property
    def step(self) -> int:
        """The last step of training so far."""
        return last_step(self.folder)

    @property
    def marker(self) -> pathlib.Path:
        """A file that a pod makes after the last of the present commands. A pod writes no record."""
        digest = hashlib.sha256(canonical(self.commands).encode()).hexdigest()[:8]
        return self.folder / f"done-{digest}"

    def record(self) -> Record:
        """The content of record.json, compared with the present commands.

        A trial is finished only if all present commands are done. With more steps or another
        command it continues.

        Raises: ValueError for a damaged record.
        """
        path = self.folder / RECORD
        record = read_record(path) if path.is_file() else Record()
        if record.state == "queued" and self.marker.exists():
            return dataclasses.replace(record, state="finished", done=tuple(map(shlex.join, self.commands)))
        done = 0
        for command, before in zip(self.commands, record.done, strict=False):
            if current(shlex.join(command)) != current(before):
                break
            done += 1
        state, complete = record.state, done == len(self.commands)
        if state == "finished" and not complete:
            state = "pending"
        return dataclasses.replace(record, state=state, done=record.done[:done])

    @property
    def job(self) -> str:
        """The last job of a cluster that ran it, or "" for none."""
        path = self.folder / JOB
        return path.read_text(errors="replace").strip() if path.is_file() else ""

    def write_record(self, record: Record) -> None:
        """Writes record.json atomically."""
        write_json(self.folder / RECORD, dataclasses.asdict(record))

    def write(self) -> None:
        """Makes the folder with trial.json.

        Raises: ValueError when another config was trained there, or for a damaged trial.json.
        """
        path = self.folder / SPEC
        if path.is_file():
            remedy = "delete it, and the sweep writes it again"
            config = read_json(path, remedy).get("config")
            if not isinstance(config, dict):
                raise ValueError(f"{path} needs the trial's config, got none; {remedy}.")
            self._check_same(config)
        self.folder.mkdir(parents=True, exist_ok=True)
        commands = [shlex.join(command) for command in self.commands]
        write_json(path, {"point": self.point, "commands": commands, "config": self.config})

    def last_line(self) -> str:
        """The last line of the log that is not empty."""
        path = self.folder / LOG
        lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
        telling = [line.strip() for line in lines if line.strip() and not line.startswith(("(--verbosity", "$ "))]
        return telling[-1] if telling else ""

    def _check_same(self, before: Mapping[str, Any]) -> None:
        found = differences(lasting(before), lasting(self.config))
        if found:
            raise ValueError(
                f"The trial in {self.folder} was made with another base config: {'; '.join(found)}. Put it back, or use "
                "another --workdir."
            )


def read_record(path: pathlib.Path) -> Record:
    """The record that a trial's `write_record` wrote.

    Raises: ValueError for a damaged file.
    """
    remedy = "delete it, and run the sweep again: finished commands see that their work is done"
    fields = read_json(path, remedy)
    defaults = dataclasses.asdict(Record()) | {"done": []}
    wrong = [name for name in fields if name not in defaults or not _is_like(fields[name], defaults[name])]
    wrong += [name for name in ("state", "done") if name not in fields]
    if wrong or fields["state"] not in STATES or not all(isinstance(command, str) for command in fields["done"]):
        got = (
            f"wrong or missing: {', '.join(wrong)}" if wrong else f"state {fields['state']!r}, done {fields['done']!r}"
        )
        raise ValueError(f"{path} needs the record of a trial, got {got}; {remedy}.")
    return Record(**{**fields, "done": tuple(fields["done"])})


def _is_like(value: Any, default: Any) -> bool:
    return isinstance(value, int | float if isinstance(default, float) else type(default))


def make_trial(sweep: Sweep, folder: pathlib.Path, point: Point) -> Trial:
    """The trial at a point, in `folder`/trials/<id>. It writes nothing.

    Raises: ValueError for a field or value that the config does not accept.
    """
    path, overrides = sweep.config, {**sweep.overrides, **point}
    path = overrides.pop("config", path)
    arguments, config = command_line(path, overrides)
    typed = {
        field: plain(config[field] if field in config else _at(config, field)) for field in point if field != "config"
    }
    point = {field: typed.get(field, value) for field, value in point.items()}
    name = trial_name(point)
    workdir = folder / TRIALS / name
    train = [*sweep.train, *arguments, f"--workdir={workdir}"]
    then = [[word.replace("{workdir}", str(workdir)) for word in command] for command in sweep.then]
    return Trial(name, workdir, point, plain(config), [train, *then])


def trial_name(point: Point) -> str:
    """A readable name with a digest of the point: "ve-0.002-1a2b3c4d"."""
    digest = hashlib.sha256(canonical(point).encode()).hexdigest()[:8]
    words = [re.sub(r"[^a-z0-9.]+", "-", label(value).lower()).strip("-.") for value in point.values()]
    readable = "-".join(word for word in words if word)[:40].strip("-.")
    return f"{readable}-{digest}" if readable else digest


def label(value: Any) -> str:
    """A value in a few letters: the name of a section, a file without its folder, or the number itself."""
    if isinstance(value, Mapping):
        others = {name: part for name, part in value.items() if name != "name"}
        return str(value["name"]) if "name" in value else canonical(others)
    if isinstance(value, str) and ".py" in value:
        return pathlib.PurePath(value).name.replace(".py", "")
    return value if isinstance(value, str) else canonical(value)


def _at(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = config[name]
    return config
