"""What the entry points do with an experiment and a folder: train, sample, measure."""

import math
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from score_sde import parallel
from score_sde.evaluation import LossByNoiseLevel
from score_sde.experiment import Experiment, plain
from score_sde.likelihood import BitsPerDim, bits_per_dim
from score_sde.plots import image_grid, save_image
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
        return checkpoints.restore(experiment.state_shapes(), step).state
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
    restored = checkpoints.restore(experiment.state_shapes())
    kept = {name: section for name, section in plain(experiment.config).items() if name not in FREE_SECTIONS}
    saved = {name: section for name, section in restored.config.items() if name not in FREE_SECTIONS}
    differences = config_differences(saved, kept)
    batch_sizes = [c["training"]["batch_size"] for c in (restored.config, plain(experiment.config))]
    if batch_sizes[0] != batch_sizes[1]:
        differences.append(f"training.batch_size: {batch_sizes[0]} there, {batch_sizes[1]} here")
    if differences:
        raise ValueError(
            f"The checkpoint in {checkpoints.directory} was trained with another config: {'; '.join(differences)}. Use the "
            "config of the run (its config.json), or another --workdir."
        )
    return restored.state


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
            picture = image_grid(images.x)
            save_image(workdir / "samples" / f"step_{step:08d}.png", picture)
            logger.log_image(step, "samples", picture)

    def save(step: int, state: TrainState) -> None:
        logger.flush()
        checkpoints.save(state, plain(experiment.config))

    return [
        Action(training.get("eval_every", 0), evaluate),
        Action(training.get("sample_every", 0), draw),
        Action(training.checkpoint_every, save),
    ]


def _sharded_eval_batches(experiment: Experiment) -> Iterator[dict[str, Array]]:
    size = experiment.config.training.get("eval_batch_size", experiment.config.training.batch_size)
    parallel.check_batch_size(size, experiment.mesh)
    for batch in experiment.eval_batches(size):
        yield parallel.shard_batch(batch, experiment.mesh)


def loss_by_noise_level(experiment: Experiment, params: Params) -> LossByNoiseLevel:
    """‖ε̂ − ε‖²/d on every held-out example, at noise levels uniform in log-SNR."""
    return experiment.noise_level_loss(experiment.run_key("evaluate"), params, _sharded_eval_batches(experiment))


def held_out_bits_per_dim(
    experiment: Experiment, params: Params, max_examples: int | None = None, quiet: bool = True
) -> BitsPerDim:
    """bits/dim of the held-out examples (the first `max_examples`), each once, with its interval."""
    raise NotImplementedError
