"""Metrics of the model itself on held-out data, which need no samples, with what tells whether two such numbers compare."""

import pathlib
from collections.abc import Sequence
from typing import Any

from score_sde import parallel
from score_sde.config import plain
from score_sde.evaluation.density import run_density
from score_sde.evaluation.ledger import without_folders
from score_sde.evaluation.scores import Result
from score_sde.experiment import Experiment
from score_sde.runs.measures import bits_as_json, describe_data, run_likelihood, run_noise_levels

MODEL_METRICS = ("noise_levels", "bits_per_dim", "density")


def model_results(
    experiment: Experiment,
    workdir: pathlib.Path,
    metrics: Sequence[str],
    step: int,
    ema: str | None,
    max_examples: int | None,
) -> tuple[dict[str, Result], dict[str, Any]]:
    """Those of `metrics` that are of the model, and the fields of the row that belong to them."""
    which, results = (experiment, workdir, max_examples, step, ema), {}
    for name in metrics:
        if name == "noise_levels":
            results[name] = _noise_levels(*which)
        elif name == "bits_per_dim":
            bits = bits_as_json(run_likelihood(*which))
            results[name] = {"value": bits.pop("mean"), **bits}
        elif name == "density":
            found = run_density(experiment, workdir, step, ema)
            error, count = found["kl_standard_error"], len(experiment.eval_source)
            results["density_kl"] = {"value": found["kl"], "standard_error": error, "num_examples": count, **found}
    return results, _about(experiment, metrics)


def _about(experiment: Experiment, metrics: Sequence[str]) -> dict[str, Any]:
    """The held-out data, and how a likelihood is computed."""
    row: dict[str, Any] = {}
    if set(MODEL_METRICS) & set(metrics):
        data = describe_data(experiment, experiment.eval_batches(parallel.round_up(1, experiment.mesh)))
        data["data"]["source"] = without_folders(data["data"]["source"])
        row["held_out"] = data
    if {"bits_per_dim", "density"} & set(metrics):
        section = plain(experiment.config)["likelihood"]
        row["likelihood"] = {name: value for name, value in section.items() if name != "batch_size"}
    return row


def _noise_levels(
    experiment: Experiment, workdir: pathlib.Path, max_examples: int | None, step: int, ema: str | None
) -> Result:
    """Error: the standard error is an upper bound, the mean of those of the levels, which share their examples."""
    curve = run_noise_levels(experiment, workdir, max_examples, step, ema)
    return {
        "value": float(curve.mean.mean()),
        "standard_error": float(curve.standard_error.mean()),
        "num_examples": curve.num_examples,
        "log_snr": curve.log_snr.tolist(),
        "mean": curve.mean.tolist(),
        "standard_errors": curve.standard_error.tolist(),
        "note": (
            f"mean over {len(curve.mean)} noise levels of ‖ε̂ − ε‖²/d, {curve.num_examples} examples; the standard error is "
            "an upper bound"
        ),
    }
