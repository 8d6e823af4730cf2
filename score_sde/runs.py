"""What the entry points do with an experiment and a folder: train, sample, measure."""

import json
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from score_sde import parallel, plots
from score_sde.denoiser import condition_of
from score_sde.evaluation import LossByNoiseLevel
from score_sde.experiment import Experiment, plain
from score_sde.generation import Generated, join
from score_sde.likelihood import BitsPerDim, example_bits, summarize
from score_sde.training.checkpoints import Checkpoints, config_differences
from score_sde.training.logging import MetricLogger
from score_sde.training.loop import Action, train
from score_sde.training.progress import Progress
from score_sde.training.state import Params, TrainState
from score_sde.training.step import make_train_step

FREE_SECTIONS = ("sampling", "likelihood", "training")  # may change between a checkpoint and a resume


def pick_params(state: TrainState, ema: str | None) -> Params:
    """The average with the half-life `ema` (in thousands of images; None: the first), or the raw parameters ("none").

    Raises: ValueError for a half-life that was not kept.
    """
    if ema == "none" or not state.ema:
        return state.params
    name = next(iter(state.ema)) if ema is None else ema
    if name not in state.ema:
        raise ValueError(f"--ema needs one of {[*state.ema, 'none']} (half-lives in thousands of images), got {ema!r}.")
    return state.ema[name]


def open_checkpoints(experiment: Experiment, workdir: pathlib.Path) -> Checkpoints:
    """The checkpoints of a run in `workdir`."""
    training = experiment.config.training
    return Checkpoints(workdir, keep=training.get("keep_checkpoints", 2), keep_every=training.get("keep_every"))


def restore(experiment: Experiment, workdir: pathlib.Path, step: int | None = None) -> TrainState:
    """The state at `step` (None: the newest).

    Raises: FileNotFoundError when there is none; ValueError when it does not fit the config.
    """
    checkpoints = open_checkpoints(experiment, workdir)
    try:
        return checkpoints.restore(experiment.state_shapes(), step)
    finally:
        checkpoints.close()


def run_training(experiment: Experiment, workdir: pathlib.Path, quiet: bool = False) -> TrainState:
    """Trains in `workdir`, going on from its newest checkpoint if there is one, to `config.training.num_steps`.

    Writes config.json, checkpoints/, metrics.jsonl, timing.jsonl, tensorboard/ and samples/.

    Raises: ValueError where the config differs from the checkpoint's in more than how to train on, sample or measure.
    """
    training, workdir = experiment.config.training, pathlib.Path(workdir)
    _check_intervals(training)
    checkpoints = open_checkpoints(experiment, workdir)
    state = _state_to_start_from(experiment, checkpoints)
    start = int(state.step)
    is_writer = jax.process_index() == 0
    if is_writer:
        experiment.write_config(workdir)
    step = make_train_step(
        experiment.run_key("train"),
        experiment.denoiser,
        experiment.objective,
        experiment.optimizer,
        experiment.mesh,
        batch_size=training.batch_size,
        rampup_ratio=experiment.config.ema.rampup_ratio,
        accumulation_steps=experiment.config.optimizer.get("accumulation_steps", 1),
    )
    resume_step = start if start else None
    try:
        with (
            MetricLogger(workdir, resume_step, is_writer) as logger,
            Progress(training.num_steps, start, training.batch_size, quiet or not is_writer) as progress,
        ):
            return train(
                state,
                step,
                experiment.train_batches,
                experiment.mesh,
                training.num_steps,
                log_every=training.log_every,
                logger=logger,
                progress=progress,
                actions=_actions(experiment, workdir, logger, checkpoints),
            )
    finally:
        checkpoints.close()


def _check_intervals(training: Any) -> None:
    if training.checkpoint_every % training.log_every:
        raise ValueError(
            "training.checkpoint_every needs to be a multiple of training.log_every, so that a resumed run writes the same "
            f"metrics, got {training.checkpoint_every} and {training.log_every}."
        )


def _state_to_start_from(experiment: Experiment, checkpoints: Checkpoints) -> TrainState:
    """The newest checkpoint's state, or the initial one."""
    if checkpoints.latest() is None:
        return experiment.init_state()
    there, here = checkpoints.config(), plain(experiment.config)
    saved, wanted = ({n: c[n] for n in c if n not in FREE_SECTIONS} for c in (there, here))
    differences = config_differences(saved, wanted)
    sizes = [config["training"]["batch_size"] for config in (there, here)]
    if sizes[0] != sizes[1]:
        differences.append(f"training.batch_size: {sizes[0]} there, {sizes[1]} here")
    if differences:
        raise ValueError(
            f"The checkpoint in {checkpoints.directory} was trained with another config: {'; '.join(differences)}. Use the "
            "config of the run (its config.json), or another --workdir."
        )
    return checkpoints.restore(experiment.state_shapes())


def _actions(
    experiment: Experiment, workdir: pathlib.Path, logger: MetricLogger, checkpoints: Checkpoints
) -> list[Action]:
    training = experiment.config.training

    def evaluate(step: int, state: TrainState) -> None:
        curve = loss_by_noise_level(experiment, pick_params(state, None))
        levels = {f"eval/eps_error_at_log_snr_{snr:+.1f}": v for snr, v in zip(curve.log_snr, curve.mean, strict=True)}
        logger.log(step, {"eval/eps_error": curve.mean.mean(), **levels})

    def draw(step: int, state: TrainState) -> None:
        params, number = pick_params(state, None), experiment.config.sampling.get("num_preview", 16)
        images = experiment.generator(experiment.run_key("sample"), params, number)
        if jax.process_index() == 0 and len(experiment.spec.shape) > 1:
            picture = plots.image_grid(images.x)
            plots.save_image(workdir / "samples" / f"step_{step:08d}.png", picture)
            logger.log_image(step, "samples", picture)

    def save(step: int, state: TrainState) -> None:
        logger.flush()
        checkpoints.save(state, plain(experiment.config))

    return [
        Action(training.get("eval_every", 0), evaluate),
        Action(training.get("sample_every", 0), draw),
        Action(training.checkpoint_every, save),
    ]


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


def run_density(
    experiment: Experiment,
    workdir: pathlib.Path,
    checkpoint: int | None = None,
    ema: str | None = None,
    num_samples: int = 10_000,
    resolution: int = 80,
) -> dict[str, float]:
    """Holds a model of a generated 2-D density against it; prints the numbers, writes density.json and density.png.

    The numbers: mean log-density of held-out points, learned and exact, in nats, with the standard error of their
    difference (its mean is an estimate of the KL divergence); and the exact mean log-density of samples, which for
    samples from the density itself would be that of the held-out points.

    Raises: ValueError for any other kind of data.
    """
    density = getattr(experiment.eval_source, "density", None)
    if density is None or experiment.spec.shape != (2,):
        raise ValueError(
            f"density needs 2-D data of the source 'density', got {type(experiment.eval_source).__name__}."
        )
    params = pick_params(restore(experiment, workdir, checkpoint), ema)
    points = experiment.eval_source.gather(np.arange(len(experiment.eval_source)))["x"]
    learned = -held_out_bits_per_dim(experiment, params).per_example * 2 * math.log(2)
    exact = np.asarray(density.log_prob(points), np.float64)
    samples = experiment.generator(experiment.run_key("sample"), params, num_samples).x
    of_samples = np.asarray(density.log_prob(samples), np.float64)
    means = {
        "held_out_learned": learned.mean(),
        "held_out_exact": exact.mean(),
        "kl": (exact - learned).mean(),
        "kl_standard_error": (exact - learned).std() / math.sqrt(len(exact)),
        "samples_exact": of_samples[np.isfinite(of_samples)].mean(),
        "samples_outside_support": 1 - np.isfinite(of_samples).mean(),
    }
    result = {name: float(value) for name, value in means.items()}
    print("\n".join(f"{name:24s} {value:8.4f}" for name, value in result.items()))
    (workdir / "density.json").write_text(json.dumps(result, indent=2) + "\n")
    _draw_density(experiment, params, density, samples, resolution, workdir / "density.png")
    return result


def _draw_density(experiment, params, density, samples, resolution, path) -> None:
    """The density, a histogram of the samples, and the learned density."""
    low, high = np.percentile(samples, [0.1, 99.9], axis=0)
    centre, reach = ((low + high) / 2).tolist(), 0.6 * float((high - low).max())
    extent = (centre[0] - reach, centre[0] + reach, centre[1] - reach, centre[1] + reach)
    grid = plots.grid_points(extent, resolution)
    denoise = experiment.denoiser.bind(params)
    log_density = experiment.log_prob(
        experiment.run_key("likelihood"), experiment.sde, denoise, jnp.asarray(grid, jnp.float32)
    )
    learned = np.exp(np.asarray(log_density.log_prob))
    plots.density_plot(
        samples, path, extent=extent, true_density=np.exp(density.log_prob(grid)), learned_density=learned
    )


def draw_noise_levels(curves: dict[str, LossByNoiseLevel], path: pathlib.Path) -> None:
    """Plots the error of ε̂ against σ/α, each curve with its name."""
    series = {name: (np.exp(-0.5 * c.log_snr), c.mean, c.standard_error) for name, c in curves.items()}
    plots.loss_by_noise_level(series, path, level_name="noise level σ/α", unit="‖ε̂ − ε‖² per dimension")


def run_sampling(
    experiment: Experiment,
    workdir: pathlib.Path,
    num_samples: int,
    batch_size: int,
    *,
    first_index: int = 0,
    checkpoint: int | None = None,
    ema: str | None = None,
    output: pathlib.Path | None = None,
) -> Generated:
    """Draws images first_index … first_index + num_samples − 1; writes samples.npz and, of the first 100, samples.png."""
    state = restore(experiment, workdir, checkpoint)
    output = output or workdir / "samples" / f"step_{int(state.step):08d}"
    output.mkdir(parents=True, exist_ok=True)
    size, parts = parallel.round_up(batch_size, experiment.mesh), []
    key, params = experiment.run_key("sample"), pick_params(state, ema)
    with Progress(-(-num_samples // size), batch_size=size, name="sample") as progress:
        for part in experiment.generator.batches(key, params, num_samples, size, first_index):
            parts.append(part)
            progress.update(len(parts), {"evaluations": part.nfe.mean()})
    images = join(parts)
    arrays = {"x": images.x, "nfe": images.nfe, "index": np.arange(first_index, first_index + num_samples)}
    np.savez(output / "samples.npz", **(arrays | images.condition))  # type: ignore[arg-type]
    if len(experiment.spec.shape) > 1:
        plots.save_image(output / "samples.png", plots.image_grid(images.x[:100]))
    print(f"{num_samples} samples, {images.nfe.mean():.0f} evaluations each, in {output}")
    return images
