"""What the commands print and write. The library returns results, and each function here shows one of them."""

import math
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from score_sde import plots
from score_sde.evaluation.checkpoint_curve import draw_checkpoints, evaluate_checkpoints
from score_sde.evaluation.density import Fit, fit_of
from score_sde.evaluation.evaluating import evaluate
from score_sde.evaluation.ledger import append_row, with_error
from score_sde.evaluation.request import Evaluation
from score_sde.experiment import Experiment
from score_sde.generation.generator import Generated
from score_sde.generation.parts import NpzParts
from score_sde.internal.files import write_json
from score_sde.likelihood import BitsPerDim
from score_sde.metrics.classifier import Classifies
from score_sde.objectives.loss_by_noise_level import LossByNoiseLevel
from score_sde.runs.measures import bits_as_json, draw_noise_levels, likelihood, noise_levels
from score_sde.runs.pictures import sample_picture
from score_sde.runs.sampling import draw_samples, samples_folder, stream_samples
from score_sde.tools.compare_guidance import Comparison, Point, compare_guidance, draw_points, write_points
from score_sde.tools.compare_solvers import Problem, Row, compare, draw, draw_strips, write_table
from score_sde.trained import Trained
from score_sde.training.reporter import Reporter


def run_sampling(
    trained: Trained, num_samples: int, batch_size: int, *, first_index: int = 0, output: pathlib.Path | None = None
) -> Generated:
    """Draws images, and writes samples.npz and a picture of the first 100 of them, of all points or of 16 signals."""
    folder, reporter = output or samples_folder(trained), Reporter()
    folder.mkdir(parents=True, exist_ok=True)
    images = draw_samples(trained, num_samples, batch_size, first_index=first_index, reporter=reporter)
    if jax.process_index() == 0:
        arrays = {"x": images.x, "nfe": images.nfe, "index": np.arange(first_index, first_index + num_samples)}
        NpzParts.save(folder / "samples.npz", arrays | images.condition)
        title = f"Step {trained.step:,}: samples of {images.nfe.mean():.0f} evaluations"
        picture = sample_picture(trained.spec, images.x, images.condition, title)
        if picture is not None:
            plots.save_image(folder / "samples.png", picture)
    reporter.say(f"{num_samples} samples, {images.nfe.mean():.0f} evaluations each, in {folder}")
    return images


def run_streaming(trained: Trained, num_samples: int, batch_size: int, **how: Any) -> pathlib.Path:
    """Draws images into a folder, as `stream_samples`; returns the folder."""
    folder = stream_samples(trained, num_samples, batch_size, **how)
    Reporter().say(f"{num_samples} samples in {folder}")
    return folder


def run_likelihood(trained: Trained, max_examples: int | None = None, ema: str | None = None) -> BitsPerDim:
    """Computes bits/dim of held-out data; prints it and writes likelihood.json. Args: ema: the average, as it was asked for."""
    bits = likelihood(trained, max_examples)
    show_bits(trained, bits, ema)
    return bits


def show_bits(trained: Trained, bits: BitsPerDim, ema: str | None) -> None:
    """Prints bits/dim with its interval, and writes likelihood.json."""
    low, high = bits.interval
    Reporter().say(
        f"{bits.mean:.4f} bits/dim on {bits.num_examples} examples, {bits.confidence:.0%} interval {low:.4f} to "
        f"{high:.4f}, {bits.nfe:.0f} evaluations each"
    )
    if jax.process_index() == 0:
        write_json(trained.folder / "likelihood.json", bits_as_json(bits) | {"step": trained.step, "ema": ema})


def run_noise_levels(trained: Trained, max_examples: int | None = None) -> LossByNoiseLevel:
    """Measures the loss by noise level on held-out data; prints a table, writes noise_levels.json and noise_levels.png."""
    curve = noise_levels(trained, max_examples)
    show_noise_levels(trained, curve)
    return curve


def show_noise_levels(trained: Trained, curve: LossByNoiseLevel) -> None:
    """Prints the table, and writes noise_levels.json and noise_levels.png."""
    if jax.process_index() != 0:
        return
    print(f"{'log SNR':>8} {'σ/α':>10} {'‖ε̂ − ε‖²/d':>12} {'± s.e.':>9}   ({curve.num_examples} examples)")
    for snr, mean, error in zip(curve.log_snr, curve.mean, curve.standard_error, strict=True):
        print(f"{snr:8.2f} {math.exp(-0.5 * snr):10.4g} {mean:12.5f} {error:9.5f}")
    result = {name: np.asarray(value).tolist() for name, value in curve._asdict().items()} | {"step": trained.step}
    write_json(trained.folder / "noise_levels.json", result)
    draw_noise_levels({"held-out data": curve}, trained.folder / "noise_levels.png")


def run_density(trained: Trained, num_samples: int = 10_000, resolution: int = 80) -> dict[str, float]:
    """Holds a model of a generated 2-D density against it; prints the numbers, writes density.json and density.png."""
    fit = fit_of(trained, num_samples, resolution)
    show_density(trained, fit)
    return fit.numbers


def show_density(trained: Trained, fit: Fit) -> None:
    """Prints the numbers, and writes density.json and density.png."""
    if jax.process_index() != 0:
        return
    print("\n".join(f"{name:24s} {value:8.4f}" for name, value in fit.numbers.items()))
    if fit.of_components:
        print("Each log-density is the density of the component that the label names.")
    write_json(trained.folder / "density.json", fit.numbers)
    fit.draw(trained.folder / "density.png")


def run_evaluation(trained: Trained, evaluation: Evaluation, quiet: bool = False) -> dict[str, Any]:
    """Evaluates a model, prints the numbers, and appends a row to the ledger; returns the row."""
    row = evaluate(trained, evaluation, evaluation_reporter(trained, evaluation, quiet))
    show_row(trained, row)
    return row


def run_all_checkpoints(
    experiment: Experiment, workdir: pathlib.Path, evaluation: Evaluation, quiet: bool = False
) -> list[dict[str, Any]]:
    """Evaluates every checkpoint of a run, and draws each metric against the images seen in training; the rows."""

    def reporter_of(trained: Trained) -> Reporter:
        return evaluation_reporter(trained, evaluation, quiet)

    rows = []
    for trained, row, is_new in evaluate_checkpoints(experiment, workdir, evaluation, reporter_of):
        if is_new:
            show_row(trained, row)
        rows.append(row)
    if jax.process_index() == 0:
        for name, path in draw_checkpoints(workdir, rows).items():
            print(f"{name} of {len(rows)} checkpoints in {path}")
    return rows


def evaluation_reporter(trained: Trained, evaluation: Evaluation, quiet: bool) -> Reporter:
    """Shows what the metrics of the model itself find, as soon as it is there."""
    show: dict[str, Callable[[Any], None]] = {
        "noise_levels": lambda curve: show_noise_levels(trained, curve),
        "bits_per_dim": lambda bits: show_bits(trained, bits, evaluation.ema),
        "density": lambda fit: show_density(trained, fit),
    }
    return Reporter(quiet, lambda name, value: show[name](value))


def show_row(trained: Trained, row: dict[str, Any]) -> None:
    """Appends a row to the ledger, and prints its numbers and warnings."""
    if jax.process_index() != 0:
        return
    append_row(trained.folder, row)
    for name, result in row["results"].items():
        text = f"{name:16s} {with_error(result)}"
        text += "".join(f", {key.replace('_', ' ')} {result[key]:.4g}" for key in result if key.startswith("min_of_"))
        if "interval" in result:
            text += ", 95 % interval {:.4g} to {:.4g}".format(*result["interval"])
        print(f"{text}  {result.get('note', '')}".rstrip())
    for warning in row["warnings"]:
        print(f"Warning: {warning}")


def run_comparison(
    problem: Problem, folder: pathlib.Path, solvers: list[str], budgets: list[int], grids: list[str]
) -> list[Row]:
    """Compares solvers, and writes comparison.csv, comparison.png and strips.png into `folder`."""
    rows, samples = compare(problem, solvers, budgets, grids, print)
    write_table(rows, folder / "comparison.csv")
    draw(problem, rows, folder / "comparison.png")
    strips = " and strips.png" if draw_strips(problem, rows, samples, folder / "strips.png") else ""
    print(f"{len(rows)} runs in {folder / 'comparison.csv'}, comparison.png{strips}")
    return rows


def run_guidance_comparison(comparison: Comparison, classifier: Classifies | None, folder: pathlib.Path) -> list[Point]:
    """Compares rules of guidance, and writes guidance.csv and guidance.png into `folder`."""
    points = compare_guidance(comparison, classifier, Reporter())
    folder.mkdir(parents=True, exist_ok=True)
    write_points(points, folder / "guidance.csv")
    draw_points(points, folder / "guidance.png", f"{comparison.evaluation.num_samples:,} samples for each point")
    print(f"{len(points)} points in {folder / 'guidance.csv'} and guidance.png")
    return points
