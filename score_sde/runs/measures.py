"""Loss by noise level and bits/dim of held-out data."""

import json
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Array

from score_sde import parallel, plots
from score_sde.denoiser import condition_of
from score_sde.evaluation import LossByNoiseLevel
from score_sde.experiment import Experiment
from score_sde.likelihood import BitsPerDim, example_bits, summarize
from score_sde.runs.restoring import pick_params, restore
from score_sde.training.progress import Progress
from score_sde.training.state import Params


def _sharded_batches(experiment: Experiment, size: int, max_examples: int | None = None) -> Iterator[dict[str, Array]]:
    for batch in experiment.eval_batches(parallel.round_up(size, experiment.mesh), max_examples):
        yield parallel.shard_batch(batch, experiment.mesh)



def loss_by_noise_level(experiment: Experiment, params: Params, max_examples: int | None = None) -> LossByNoiseLevel:
    """‖ε̂ − ε‖²/d on every held-out example (or the first `max_examples`), at noise levels uniform in log-SNR."""
    batches = _sharded_batches(experiment, experiment.config.training.eval_batch_size, max_examples)
    return experiment.noise_level_loss(experiment.run_key("evaluate"), params, batches)



def held_out_bits_per_dim(
    experiment: Experiment, params: Params, max_examples: int | None = None, quiet: bool = False
) -> BitsPerDim:
    """bits/dim of the held-out examples (or the first `max_examples`), each once, with its interval."""
    section, key = experiment.config.likelihood, experiment.run_key("likelihood")
    params = parallel.replicate(params, experiment.mesh)
    size, parts = parallel.round_up(section.batch_size, experiment.mesh), []
    number = len(experiment.eval_batches(size, max_examples))
    with Progress(number, batch_size=size, quiet=quiet, name="likelihood") as progress:
        for batch in _sharded_batches(experiment, size, max_examples):
            part = example_bits(
                key,
                experiment.log_prob,
                experiment.sde,
                experiment.denoiser.bind(params, condition_of(batch)),
                batch["x"],
                bin_width=experiment.spec.bin_width,
                num_repeats=section.num_repeats,
                index=batch["index"],
                mask=batch["mask"],
            )
            parts.append(part)
            progress.update(len(parts), {"bits/dim": part.values.mean()})
    return summarize(parts)



def run_likelihood(
    experiment: Experiment,
    workdir: pathlib.Path,
    max_examples: int | None = None,
    checkpoint: int | None = None,
    ema: str | None = None,
) -> BitsPerDim:
    """Computes bits/dim of held-out data with a checkpoint's average; prints it and writes workdir/likelihood.json."""
    state = restore(experiment, workdir, checkpoint)
    bits = held_out_bits_per_dim(experiment, pick_params(state, ema), max_examples)
    low, high = bits.interval
    print(
        f"{bits.mean:.4f} bits/dim on {bits.num_examples} examples, {bits.confidence:.0%} interval {low:.4f} to {high:.4f}, "
        f"{bits.nfe:.0f} evaluations each"
    )
    result = bits_as_json(bits) | {"step": int(state.step), "ema": ema}
    (workdir / "likelihood.json").write_text(json.dumps(result, indent=2) + "\n")
    return bits



def bits_as_json(bits: BitsPerDim) -> dict[str, Any]:
    """The fields as plain numbers, without the list per example."""
    return {name: value for name, value in bits._asdict().items() if name != "per_example"}



def run_noise_levels(
    experiment: Experiment,
    workdir: pathlib.Path,
    max_examples: int | None = None,
    checkpoint: int | None = None,
    ema: str | None = None,
) -> LossByNoiseLevel:
    """Measures loss by noise level on held-out data; prints a table, writes noise_levels.json and noise_levels.png."""
    state = restore(experiment, workdir, checkpoint)
    curve = loss_by_noise_level(experiment, pick_params(state, ema), max_examples)
    print(f"{'log SNR':>8} {'σ/α':>10} {'‖ε̂ − ε‖²/d':>12} {'± s.e.':>9}   ({curve.num_examples} examples)")
    for snr, mean, error in zip(curve.log_snr, curve.mean, curve.standard_error, strict=True):
        print(f"{snr:8.2f} {math.exp(-0.5 * snr):10.4g} {mean:12.5f} {error:9.5f}")
    result = {name: np.asarray(value).tolist() for name, value in curve._asdict().items()} | {"step": int(state.step)}
    (workdir / "noise_levels.json").write_text(json.dumps(result, indent=2) + "\n")
    draw_noise_levels({"held-out data": curve}, workdir / "noise_levels.png")
    return curve



def draw_noise_levels(curves: dict[str, LossByNoiseLevel], path: pathlib.Path) -> None:
    """Plots the error of ε̂ against σ/α, each curve with its name."""
    series = {name: (np.exp(-0.5 * c.log_snr), c.mean, c.standard_error) for name, c in curves.items()}
    plots.loss_by_noise_level(series, path, level_name="noise level σ/α", unit="‖ε̂ − ε‖² per dimension")
