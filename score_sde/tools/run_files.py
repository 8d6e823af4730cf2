"""The files in the folder of a run, read without its data, its network or a checkpoint."""

import pathlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from score_sde.evaluation.ledger import LEDGER, Row, read_rows
from score_sde.internal.files import read_json
from score_sde.runs.resuming import read_history
from score_sde.runs.starts import read_starts
from score_sde.training.description import CONFIG_FILE
from score_sde.training.incidents import FOLDER as INCIDENTS
from score_sde.training.logs.logging import METRICS_FILE, TIMING_FILE, Series, read_metrics
from score_sde.training.saving.verification import steps_on_disk

REMEDY = "delete it, or restore it from a copy"


class RunFiles(NamedTuple):
    """The content of a run's folder. Missing content is empty.

    Attributes:
      metrics: the metrics by name.
      timing: the speeds and times by name.
      rows: the rows of the ledger.
      previews: (step, picture) in order.
      pictures: the pictures of evaluations.
      incidents: the guard's reports of losses that were not finite.
    """

    workdir: pathlib.Path
    name: str
    config: dict[str, Any]
    metrics: dict[str, Series]
    timing: dict[str, Series]
    rows: list[Row]
    history: dict[str, Any]
    starts: list[dict[str, Any]]
    incidents: list[dict[str, Any]]
    previews: list[tuple[int, pathlib.Path]]
    pictures: list[pathlib.Path]
    checkpoints: list[int]
    warnings: list[str]

    @property
    def num_steps(self) -> int:
        """The step at which the training ends by its config, or 0 if the config does not say."""
        return int(self.config.get("training", {}).get("num_steps") or 0)

    @property
    def step(self) -> int:
        """The progress of the run: the last step of a checkpoint or of the log."""
        logged = [int(series.steps[-1]) for series in self.metrics.values() if len(series.steps)]
        return max([*self.checkpoints, *logged], default=0)

    def held_out_loss(self) -> Series | None:
        """The mean held-out error by step, where training measured it."""
        return self.metrics.get("eval/eps_error")


def read_run(workdir: pathlib.Path, name: str | None = None) -> RunFiles:
    """Reads the folder of a run.

    Raises: FileNotFoundError for a folder without a config.json. ValueError for a damaged file,
      with its name.
    """
    if not (workdir / CONFIG_FILE).is_file():
        raise FileNotFoundError(
            f"No run in {workdir}: it has no {CONFIG_FILE}, which every training writes at its start."
        )
    metrics, timing = (
        read_metrics(workdir / file) if (workdir / file).is_file() else {} for file in (METRICS_FILE, TIMING_FILE)
    )
    rows, warnings = read_rows([workdir]) if (workdir / LEDGER).is_file() else ([], [])
    incidents = [read_json(path, REMEDY) for path in sorted((workdir / INCIDENTS).glob("step_*.json"))]
    return RunFiles(
        workdir,
        name or workdir.resolve().name,
        read_json(workdir / CONFIG_FILE, REMEDY),
        metrics,
        timing,
        rows,
        read_history(workdir),
        read_starts(workdir),
        incidents,
        _previews(workdir),
        _pictures(workdir),
        steps_on_disk(workdir),
        warnings,
    )


def short_names(workdirs: Sequence[pathlib.Path]) -> list[str]:
    """The shortest ends of the paths that distinguish them."""
    parts = [path.resolve().parts for path in workdirs]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-count:]) for one in parts]
        if len(set(names)) == len(set(parts)):
            return names
    return [str(path) for path in workdirs]


def _previews(workdir: pathlib.Path) -> list[tuple[int, pathlib.Path]]:
    """Pictures of samples by step, from the training, or from `sample` for a step without a picture of the training."""
    found: dict[int, pathlib.Path] = {}
    for path in [*workdir.glob("samples/step_*/samples.png"), *workdir.glob("samples/step_*.png")]:
        step = re.match(r"step_(\d+)", path.parent.name if path.name == "samples.png" else path.name)
        if step is not None:
            found[int(step[1])] = path
    return sorted(found.items())


def _pictures(workdir: pathlib.Path) -> list[pathlib.Path]:
    """The pictures that evaluate, inspect_data and compare_solvers draw."""
    patterns = ["noise_levels", "density", "checkpoints_*", "memorization_*", "inspect_data", "near_duplicates*"]
    patterns += ["solvers/comparison", "solvers/strips"]
    return [path for pattern in patterns for path in sorted(workdir.glob(f"{pattern}.png"))]
