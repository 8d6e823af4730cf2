"""The evaluation of every checkpoint of a run: metrics against the images seen in training."""

import pathlib
from collections.abc import Callable, Iterator
from typing import Any

from score_sde.evaluation.evaluating import evaluate
from score_sde.evaluation.ledger import error_of, read_rows
from score_sde.evaluation.metric_names import label, title
from score_sde.evaluation.request import Evaluation
from score_sde.experiment import Experiment
from score_sde.internal.programs import current
from score_sde.plots.scores import metric_curves
from score_sde.runs.streams import digest_of
from score_sde.trained import Trained, restored
from score_sde.training.reporter import Reporter
from score_sde.training.saving.verification import FOLDER, steps_on_disk


def evaluated_before(workdir: pathlib.Path, command: str, checkpoint_digest: str) -> dict[str, Any] | None:
    """The row that this command has already written for the same parameters, or None."""
    try:
        rows, _ = read_rows([workdir])
    except FileNotFoundError:
        return None
    same = [
        r.values
        for r in rows
        if (current(r.values["command"]), r.values["checkpoint_digest"]) == (command, checkpoint_digest)
    ]
    return same[-1] if same else None


def checkpoint_steps(workdir: pathlib.Path) -> list[int]:
    """The steps of all checkpoints of a run.

    Raises: FileNotFoundError where there is none.
    """
    steps = steps_on_disk(workdir)
    if not steps:
        raise FileNotFoundError(f"No checkpoint in {workdir / FOLDER}; train there first.")
    return steps


def evaluate_checkpoints(
    experiment: Experiment, workdir: pathlib.Path, evaluation: Evaluation, reporter_of: Callable[[Trained], Reporter]
) -> Iterator[tuple[Trained, dict[str, Any], bool]]:
    """Evaluates every checkpoint of a run. Yields (the model, its row, whether the row is new) for each.

    A checkpoint is not evaluated again if the ledger has its row by the same command.
    """
    evaluation = evaluation.checked()
    for step in checkpoint_steps(workdir):
        trained = restored(experiment, workdir, step, evaluation.ema)
        before = evaluated_before(workdir, evaluation.command(workdir, step), digest_of(trained.params))
        yield trained, before or evaluate(trained, evaluation, reporter_of(trained)), before is None


def draw_checkpoints(workdir: pathlib.Path, rows: list[dict[str, Any]]) -> dict[str, pathlib.Path]:
    """Draws each metric of the rows against the images seen in training. Returns the pictures by metric."""
    pictures = {}
    for name in rows[0]["results"]:
        found = [row["results"][name] for row in rows]
        errors = [error_of(r) or 0.0 for r in found]
        curve = ([row["training_images"] for row in rows], [r["value"] for r in found], errors)
        path = pictures[name] = workdir / f"checkpoints_{name}.png"
        heading = f"{title(name, found[0])} of each checkpoint"
        metric_curves({workdir.name: curve}, path, "images seen in training", label(name, found[0]), heading)
    return pictures
