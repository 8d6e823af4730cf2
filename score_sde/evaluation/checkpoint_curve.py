"""A run's checkpoints, each evaluated: metrics against the images seen in training."""

import pathlib
from typing import Any

import jax

from score_sde.evaluation.evaluating import run_evaluation
from score_sde.evaluation.ledger import error_of, read_rows
from score_sde.evaluation.metric_names import label, title
from score_sde.evaluation.request import Evaluation
from score_sde.experiment import Experiment
from score_sde.internal.programs import current
from score_sde.plots.scores import metric_curves
from score_sde.runs.restoring import restore
from score_sde.runs.streams import digest_of
from score_sde.training.saving.verification import FOLDER, steps_on_disk
from score_sde.training.state import pick_params


def evaluated_before(workdir: pathlib.Path, command: str, checkpoint_digest: str) -> dict[str, Any] | None:
    """The row that this command has written already of the same parameters, or None."""
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
    """The steps of all checkpoints of a run. Raises: FileNotFoundError where there is none."""
    steps = steps_on_disk(workdir)
    if not steps:
        raise FileNotFoundError(f"No checkpoint in {workdir / FOLDER}; train there first.")
    return steps


def run_all_checkpoints(
    experiment: Experiment, workdir: pathlib.Path, evaluation: Evaluation, quiet: bool = False
) -> list[dict[str, Any]]:
    """Evaluates every checkpoint of a run, and draws each metric against the images seen in training.

    A checkpoint that the ledger has already, by the same command, is not evaluated again.
    """
    evaluation, rows = evaluation.checked(), []
    for step in checkpoint_steps(workdir):
        digest = digest_of(pick_params(restore(experiment, workdir, step), evaluation.ema))
        before = evaluated_before(workdir, evaluation.command(workdir, step), digest)
        rows.append(before or run_evaluation(experiment, workdir, evaluation, step, quiet))
    if jax.process_index() == 0:
        _draw_checkpoints(workdir, rows)
    return rows


def _draw_checkpoints(workdir: pathlib.Path, rows: list[dict[str, Any]]) -> None:
    for name in rows[0]["results"]:
        found = [row["results"][name] for row in rows]
        errors = [error_of(r) or 0.0 for r in found]
        curve = ([row["training_images"] for row in rows], [r["value"] for r in found], errors)
        path = workdir / f"checkpoints_{name}.png"
        heading = f"{title(name, found[0])} of each checkpoint"
        metric_curves({workdir.name: curve}, path, "images seen in training", label(name, found[0]), heading)
        print(f"{name} of {len(rows)} checkpoints in {path}")
