"""Training in a folder, from its newest checkpoint if there is one."""

import pathlib
from typing import Any

import jax

from score_sde import plots
from score_sde.experiment import Experiment, plain
from score_sde.runs.measures import loss_by_noise_level
from score_sde.runs.restoring import open_checkpoints, pick_params
from score_sde.training.checkpoints import Checkpoints, config_differences
from score_sde.training.logging import MetricLogger
from score_sde.training.loop import Action, train
from score_sde.training.progress import Progress
from score_sde.training.state import TrainState
from score_sde.training.step import make_train_step

FREE_SECTIONS = ("sampling", "likelihood", "training")  # may change between a checkpoint and a resume


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
