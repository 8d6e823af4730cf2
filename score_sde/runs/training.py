"""Training in a folder, from its newest checkpoint if there is one."""

import contextlib
import errno
import logging
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from score_sde import plots
from score_sde.experiment import CONFIG_FILE, Experiment
from score_sde.internal.files import remove_temporaries, remove_temporaries_of, write_json
from score_sde.runs.measures import held_out_batches
from score_sde.runs.pictures import sample_picture
from score_sde.runs.restoring import open_checkpoints, pick_params
from score_sde.runs.resuming import HISTORY_FILE, Start, begin
from score_sde.runs.starts import record_start
from score_sde.runs.weights import InitFrom
from score_sde.training.agreement import on_first_process
from score_sde.training.incidents import FOLDER as INCIDENTS
from score_sde.training.incidents import FiniteGuard
from score_sde.training.lock import RunLock
from score_sde.training.logs.logging import METRICS_FILE, TIMING_FILE, MetricLogger
from score_sde.training.logs.progress import Progress
from score_sde.training.logs.stages import stage
from score_sde.training.logs.tally import Tally
from score_sde.training.loop import Action, Instruments, train
from score_sde.training.optimizers import rate_warnings, updates_done
from score_sde.training.preemption import StopRequest
from score_sde.training.profiling import Stopwatch, Trace, compile_step
from score_sde.training.saving.checkpoints import Checkpoints
from score_sde.training.saving.verification import steps_on_disk
from score_sde.training.state import TrainState

CANNOT_WRITE = {
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
}


def run_training(
    experiment: Experiment,
    workdir: pathlib.Path,
    quiet: bool = False,
    profile_steps: tuple[int, int] | None = None,
    allow_change: Sequence[str] = (),
    init_from: InitFrom | None = None,
) -> TrainState:
    """Trains in `workdir`, going on from its newest checkpoint if there is one, to `config.training.num_steps`.

    Writes config.json, history.json, checkpoints/, metrics.jsonl, timing.jsonl, tensorboard/ and samples/; profile/ with the
    trace of steps profile_steps[0] … profile_steps[1] − 1; incidents/ where a loss is not finite. SIGTERM, Ctrl-C and a
    pre-emption notice save a checkpoint and return the state, whose step then is before the last.

    Args:
      allow_change: fields or sections of the config that may differ from the checkpoint's; "data" is also the data.
      init_from: the weights that a new run begins with; a run that is there goes on from its checkpoint.
    Raises: ValueError where config or data differ from the checkpoint's in more than how to train on, sample or measure, or
    the newest checkpoint is damaged; OSError where another run trains in `workdir` or it cannot be written;
    FloatingPointError where the loss is not finite.
    """
    workdir = pathlib.Path(workdir)
    with StopRequest() as stop:
        with stage("building the data, the network and the solver"):
            _prepare(experiment)
        if not quiet and jax.process_index() == 0:
            print(_what_is_read(experiment))
        with (
            _clear_errors(workdir),
            RunLock(workdir),
            contextlib.closing(Trace(workdir, profile_steps)) as trace,
            contextlib.closing(open_checkpoints(experiment, workdir)) as checkpoints,
        ):
            start = begin(experiment, checkpoints, allow_change, init_from)
            state = _train(experiment, workdir, start, checkpoints, stop, trace, quiet)
    if stop.reason and int(state.step) < experiment.settings.training.num_steps and jax.process_index() == 0:
        print(
            f"Stopped by {stop.reason} after step {int(state.step)} of {experiment.settings.training.num_steps}; all of it is "
            f"saved in {workdir}. The same command goes on from there."
        )
    return state


def _prepare(experiment: Experiment) -> None:
    """Builds all that the run will ask for, so that a mistake is told before anything is written or trained.

    Raises: ValueError or OSError from what a section of the config builds.
    """
    training = experiment.settings.training
    experiment.state_shapes()
    if training.eval_every:
        experiment.check_held_out()
    if training.sample_every:
        experiment.solver.check(experiment.sde, experiment.grid.times(experiment.sde))
        experiment.generator.condition(0, 1)


def _what_is_read(experiment: Experiment) -> str:
    """A line for each source: how many examples and classes, and what was passed over and why."""
    lines = [f"data.train: {experiment.train_source.summary()}"]
    if experiment.settings.training.eval_every:
        lines.append(f"data.eval: {experiment.eval_source.summary()}")
    return "\n".join(lines)


def _train(
    experiment: Experiment,
    workdir: pathlib.Path,
    begun: Start,
    checkpoints: Checkpoints,
    stop: StopRequest,
    trace: Trace,
    quiet: bool,
) -> TrainState:
    training, is_writer = experiment.settings.training, jax.process_index() == 0
    state, position, start = begun.state, begun.position, int(begun.state.step)
    _check_rates(experiment, state)
    if is_writer:
        _clean_up(workdir)
        experiment.write_config(workdir)
        write_json(workdir / HISTORY_FILE, begun.record)
        for note in begun.notes:
            print(note)
    tally = Tally(position.get("tally"))
    guard = FiniteGuard(
        training.nonfinite,
        training.max_skips,
        workdir,
        experiment.task.describe,
        checkpoints.latest,
        position.get("skips_in_a_row", 0),
    )
    with (
        MetricLogger(workdir, start or None, is_writer) as logger,
        Progress(max(training.num_steps, start), start, training.batch_size, quiet or not is_writer) as progress,
    ):
        _compare_log(logger, position, workdir)
        save = _saver(experiment, begun.record, logger, checkpoints, tally, guard)
        if start < training.num_steps:
            on_first_process(lambda: checkpoints.check_room(state))
        if begun.is_copy:
            save(start, state)  # so that a restart does not need the other run any more
        if start >= training.num_steps or stop.reached(start):  # the same on all processes
            if start >= training.num_steps and is_writer:
                print(
                    f"The run in {workdir} is finished: {start} of {training.num_steps} steps are done, nothing is trained. "
                    "With a larger training.num_steps the same command goes on."
                )
            return state
        if is_writer:
            record_start(workdir, start)
        with progress.during("compiling the training step"):
            step, seconds, flops = compile_step(experiment.train_step(), state, experiment.batch_shapes())
        watch = Stopwatch(training.batch_size, seconds, flops)
        return train(
            state,
            step,
            experiment.train_batches,
            experiment.mesh,
            training.num_steps,
            log_every=training.log_every,
            instruments=Instruments(logger, progress, tally, guard, watch, trace, stop),
            actions=_actions(experiment, workdir, logger, checkpoints, save),
        )


def _clean_up(workdir: pathlib.Path) -> None:
    """Deletes what killed runs left half written; of this run's files alone, as others may be measuring the run."""
    for name in (CONFIG_FILE, HISTORY_FILE, METRICS_FILE, TIMING_FILE):
        remove_temporaries_of(workdir / name)
    remove_temporaries(workdir / INCIDENTS)


def _check_rates(experiment: Experiment, state: TrainState) -> None:
    """Says so where the learning rate is 0 for a part of the training, or never leaves its warm-up.

    Raises: ValueError where it is 0 in all of what is left.
    """
    left = experiment.settings.training.num_steps - int(state.step)
    done = int(updates_done(state.opt_state))
    for warning in rate_warnings(experiment.optimizer.schedule, experiment.schedule, done, left):
        if jax.process_index() == 0:
            logging.warning("%s", warning)


def _compare_log(logger: MetricLogger, position: dict[str, Any], workdir: pathlib.Path) -> None:
    """Says so where metrics.jsonl is not what it was when the checkpoint was saved; training does not depend on it."""
    expected, found = position.get("metrics_sha256"), logger.digest()
    if expected and found and expected != found:
        logging.warning(
            "%s was edited, or lines of it are missing, since the checkpoint was saved; the run goes on and leaves the "
            "lines up to there as they are now.",
            workdir / METRICS_FILE,
        )


def _saver(
    experiment: Experiment,
    record: dict[str, Any],
    logger: MetricLogger,
    checkpoints: Checkpoints,
    tally: Tally,
    guard: FiniteGuard,
) -> Callable[[int, TrainState], None]:
    """Saves a state with all that a resumed run goes on with."""

    def save(step: int, state: TrainState) -> None:
        guard.check_parameters(state)
        logger.flush()
        position = {
            "tally": tally.saved(),
            "skips_in_a_row": guard.in_a_row,
            "metrics_sha256": logger.digest(),
        }
        checkpoints.save(state, experiment.resolved, position | record)

    return save


def _actions(
    experiment: Experiment,
    workdir: pathlib.Path,
    logger: MetricLogger,
    checkpoints: Checkpoints,
    save: Callable[[int, TrainState], None],
) -> list[Action]:
    training = experiment.settings.training

    def evaluate(step: int, state: TrainState) -> None:
        batches = held_out_batches(experiment)
        measured = experiment.task.evaluate(experiment.run_key("evaluate"), pick_params(state, None), batches)
        logger.log(step, {f"eval/{name}": value for name, value in measured.items()})

    def draw(step: int, state: TrainState) -> None:
        params, number = pick_params(state, None), experiment.settings.sampling.num_preview
        images = experiment.generator(experiment.run_key("sample"), params, number)
        title = f"Step {step:,}: samples of {images.nfe.mean():.0f} evaluations"
        picture = sample_picture(experiment.spec, images.x, images.condition, title)
        if jax.process_index() == 0 and picture is not None:
            plots.save_image(workdir / "samples" / f"step_{step:08d}.png", picture)
            logger.log_image(step, "samples", picture)

    return [
        Action(training.log_every, lambda step, state: checkpoints.check(), name="waiting for the last checkpoint"),
        Action(training.eval_every, evaluate, name="measuring the held-out loss"),
        Action(training.sample_every, draw, name="drawing samples"),
        Action(training.checkpoint_every, save, part="save", keeps=True, name="saving a checkpoint"),
    ]


@contextlib.contextmanager
def _clear_errors(workdir: pathlib.Path) -> Iterator[None]:
    """Turns the system's refusal to write into a sentence with a remedy."""
    try:
        yield
    except OSError as error:
        if error.errno not in CANNOT_WRITE or not _is_of(workdir, error.filename):
            raise
        raise OSError(
            f"The run cannot write in {workdir}: {error.strerror}{f' ({error.filename})' if error.filename else ''}. Its "
            f"checkpoints ({steps_on_disk(workdir) or 'none'}) are untouched; make room or let it write there, and run the "
            "same command again."
        ) from error


def _is_of(workdir: pathlib.Path, filename: object) -> bool:
    """Whether an error's file lies in `workdir` or is a folder above it; a full disk names none. Data lie elsewhere."""
    if not isinstance(filename, str | os.PathLike):
        return True
    path, folder = pathlib.Path(filename).absolute(), workdir.absolute()
    return path.is_relative_to(folder) or folder.is_relative_to(path)
