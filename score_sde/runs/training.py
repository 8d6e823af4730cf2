"""One training: from the newest checkpoint of its folder, if there is one, to its last step."""

import contextlib
import errno
import logging
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax

from score_sde import parallel, plots
from score_sde.config import Schedule, sections
from score_sde.data import DataSpec, EvalBatches, Source
from score_sde.data.held_out import check_alike
from score_sde.generation.generator import Generator
from score_sde.internal.files import remove_temporaries, remove_temporaries_of, write_json
from score_sde.runs.pictures import sample_picture
from score_sde.runs.resuming import HISTORY_FILE, Start, begin, first
from score_sde.runs.starts import record_start
from score_sde.runs.weights import InitFrom
from score_sde.training.agreement import on_first_process
from score_sde.training.description import Description
from score_sde.training.incidents import FOLDER as INCIDENTS
from score_sde.training.incidents import FiniteGuard
from score_sde.training.lock import RunLock
from score_sde.training.logs.logging import METRICS_FILE, TIMING_FILE, MetricLogger
from score_sde.training.logs.tally import Tally
from score_sde.training.loop import Action, Instruments, train
from score_sde.training.optimizers import rate_warnings, updates_done
from score_sde.training.preemption import StopRequest
from score_sde.training.profiling import Stopwatch, Trace, compile_step
from score_sde.training.recipe import Recipe
from score_sde.training.reporter import Reporter
from score_sde.training.saving.checkpoints import Checkpoints, Unsaved
from score_sde.training.saving.verification import steps_on_disk
from score_sde.training.state import TrainState, pick_params

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


class Preview(NamedTuple):
    """How samples are drawn during the training, how many, and the spec of one of them."""

    generator: Generator
    number: int
    spec: DataSpec


class Job(NamedTuple):
    """Everything that defines a training.

    Attributes:
      settings: the length of the training, and what happens during it.
      schedule: the schedule of the learning rate, or None where it is not known.
      description: the description of the run, which is saved with every checkpoint.
      workdir: the folder of the run. None writes nothing.
      held_out: the held-out examples that training uses, or None.
      allow_change: fields or sections of the description that may differ from the checkpoint's.
      init_from: the weights with which a new run begins.
    """

    recipe: Recipe
    settings: sections.Training
    description: Description
    reporter: Reporter
    workdir: pathlib.Path | None = None
    schedule: Schedule | None = None
    held_out: EvalBatches | None = None
    preview: Preview | None = None
    profile_steps: tuple[int, int] | None = None
    allow_change: Sequence[str] = ()
    init_from: InitFrom | None = None

    def check(self) -> None:
        """Builds everything that the training will use, so that an error is raised before anything is written or trained.

        Raises: ValueError or OSError from the parts that are built.
        """
        if self.profile_steps is not None and self.workdir is None:
            raise ValueError("profile_steps writes into the folder of the run; give the trainer a workdir.")
        self.recipe.state_shapes()
        if self.settings.eval_every and self.held_out is not None:
            check_alike(self.held_out.spec, self.recipe.spec)
        if self.settings.sample_every and self.preview is not None:
            generator = self.preview.generator
            sde = generator.denoiser.sde
            generator.solver.check(sde, generator.grid.times(sde))
            generator.condition(0, 1)

    @property
    def is_writer(self) -> bool:
        """Whether this process writes the files of the run."""
        return self.workdir is not None and jax.process_index() == 0


def run_job(job: Job, stop: StopRequest) -> TrainState:
    """Trains to `job.settings.num_steps`, or until `stop` asks to stop. Returns the state.

    The step of the state is before the last where the training was asked to stop. It writes the
    description, history.json, checkpoints/, metrics.jsonl, timing.jsonl, tensorboard/ and samples/.
    profile/ has the trace of `job.profile_steps`. incidents/ has reports where a loss is not
    finite.

    Raises: ValueError where settings or data differ from the checkpoint's in anything but how to
      train on, sample or measure, or where the newest checkpoint is damaged. OSError where another
      run trains in the folder, or where it cannot be written. FloatingPointError where the loss is
      not finite.
    """
    if not job.reporter.quiet:
        job.reporter.say(_what_is_read(job))
    checkpoints: Checkpoints | Unsaved
    with contextlib.ExitStack() as opened:
        if job.workdir is None:
            trace, checkpoints = Trace(pathlib.Path(), None), Unsaved()
            start = first(job.recipe, job.description, {}, job.init_from)
        else:
            opened.enter_context(_clear_errors(job.workdir))
            opened.enter_context(RunLock(job.workdir))
            trace = opened.enter_context(contextlib.closing(Trace(job.workdir, job.profile_steps)))
            keep, keep_every = job.settings.keep_checkpoints, job.settings.keep_every
            saved = opened.enter_context(contextlib.closing(Checkpoints(job.workdir, keep, keep_every)))
            start = begin(job.recipe, job.description, _sources(job), saved, job.allow_change, job.init_from)
            checkpoints = saved
        state = _train(job, start, checkpoints, stop, trace)
    if stop.reason and int(state.step) < job.settings.num_steps:
        kept = f"all of it is saved in {job.workdir}. The same command goes on from there."
        lost = "nothing is saved, since the run has no folder."
        job.reporter.say(
            f"Stopped by {stop.reason} after step {int(state.step)} of {job.settings.num_steps}; "
            f"{lost if job.workdir is None else kept}"
        )
    return state


def _sources(job: Job) -> dict[str, Source]:
    """The data whose facts a resumed run compares."""
    return {"train": job.recipe.batches.source} | ({} if job.held_out is None else {"eval": job.held_out.source})


def _what_is_read(job: Job) -> str:
    """A line for each source: the number of examples and classes, and what was left out with the reason."""
    lines = [f"data.train: {job.recipe.batches.source.summary()}"]
    if job.settings.eval_every and job.held_out is not None:
        lines.append(f"data.eval: {job.held_out.source.summary()}")
    return "\n".join(lines)


def _train(job: Job, begun: Start, checkpoints: Checkpoints | Unsaved, stop: StopRequest, trace: Trace) -> TrainState:
    settings, recipe, batch_size = job.settings, job.recipe, job.recipe.batches.batch_size
    state, position, start = begun.state, begun.position, int(begun.state.step)
    _check_rates(job, state)
    _write_beginning(job, begun)
    tally = Tally(position.get("tally"))
    guard = FiniteGuard(
        settings.nonfinite,
        settings.max_skips,
        job.workdir,
        recipe.task.describe,
        checkpoints.latest,
        position.get("skips_in_a_row", 0),
    )
    folder = job.workdir or pathlib.Path()
    with (
        MetricLogger(folder, start or None, job.is_writer) as logger,
        job.reporter.progress(max(settings.num_steps, start), start, batch_size) as progress,
    ):
        _compare_log(logger, position, folder)
        save = _saver(job, begun.record, logger, checkpoints, tally, guard)
        if start < settings.num_steps:
            on_first_process(lambda: checkpoints.check_room(state))
        if begun.is_copy:
            save(start, state)  # so that a restart no longer needs the other run
        if start >= settings.num_steps or stop.reached(start):  # all processes agree on this condition
            if start >= settings.num_steps:
                job.reporter.say(_finished(job, start))
            return state
        if job.is_writer:
            record_start(folder, start)
        with progress.during("compiling the training step"):
            step, seconds, flops = compile_step(recipe.train_step(), state, recipe.batch_shapes())
        watch = Stopwatch(batch_size, seconds, flops)
        return train(
            state,
            step,
            recipe.batches,
            recipe.mesh,
            settings.num_steps,
            log_every=settings.log_every,
            instruments=Instruments(logger, progress, tally, guard, watch, trace, stop),
            actions=_actions(job, logger, checkpoints, save),
        )


def _write_beginning(job: Job, begun: Start) -> None:
    """Writes the description of the run, and prints what the user should know about its start."""
    if job.workdir is not None and job.is_writer:
        _clean_up(job.workdir, job.description.file)
        job.description.write(job.workdir)
        write_json(job.workdir / HISTORY_FILE, begun.record)
    for note in begun.notes:
        job.reporter.say(note)


def _finished(job: Job, start: int) -> str:
    return (
        f"The run in {job.workdir} is finished: {start} of {job.settings.num_steps} steps are done, nothing is trained. "
        "With a larger training.num_steps the same command goes on."
    )


def _clean_up(workdir: pathlib.Path, description: str) -> None:
    """Deletes half-written files of interrupted runs.

    It touches only files of the training, because other commands may be measuring the run.
    """
    for name in (description, HISTORY_FILE, METRICS_FILE, TIMING_FILE):
        remove_temporaries_of(workdir / name)
    remove_temporaries(workdir / INCIDENTS)


def _check_rates(job: Job, state: TrainState) -> None:
    """Warns where the learning rate is 0 for a part of the training, or never leaves its warm-up.

    Raises: ValueError where the rate is 0 in all remaining updates.
    """
    rate = job.recipe.optimizer.schedule
    if rate is None or job.schedule is None:
        return
    left = job.settings.num_steps - int(state.step)
    done = int(updates_done(state.opt_state))
    for warning in rate_warnings(rate, job.schedule, done, left):
        if jax.process_index() == 0:
            logging.warning("%s", warning)


def _compare_log(logger: MetricLogger, position: dict[str, Any], workdir: pathlib.Path) -> None:
    """Warns where metrics.jsonl has changed since the checkpoint was saved. Training does not depend on it."""
    expected, found = position.get("metrics_sha256"), logger.digest()
    if expected and found and expected != found:
        logging.warning(
            "%s was edited, or lines of it are missing, since the checkpoint was saved. The run continues, and keeps "
            "the earlier lines as they are now.",
            workdir / METRICS_FILE,
        )


def _saver(
    job: Job,
    record: dict[str, Any],
    logger: MetricLogger,
    checkpoints: Checkpoints | Unsaved,
    tally: Tally,
    guard: FiniteGuard,
) -> Callable[[int, TrainState], None]:
    """A function that saves a state with everything that a resumed run needs."""

    def save(step: int, state: TrainState) -> None:
        guard.check_parameters(state)
        logger.flush()
        position = {
            "tally": tally.saved(),
            "skips_in_a_row": guard.in_a_row,
            "metrics_sha256": logger.digest(),
        }
        checkpoints.save(state, job.description.values, position | record | job.description.mark)

    return save


def held_out_batches(job: Job) -> Iterator[dict[str, Any]]:
    """Every held-out example once, in batches on the devices of the mesh. "is_real" is False on padding."""
    return (parallel.shard_batch(batch, job.recipe.mesh) for batch in job.held_out or ())


def _actions(
    job: Job,
    logger: MetricLogger,
    checkpoints: Checkpoints | Unsaved,
    save: Callable[[int, TrainState], None],
) -> list[Action]:
    settings, recipe = job.settings, job.recipe

    def evaluate(step: int, state: TrainState) -> None:
        key, params = recipe.run_key("evaluate"), pick_params(state, None)
        measured = recipe.task.evaluate(key, params, held_out_batches(job))
        logger.log(step, {f"eval/{name}": value for name, value in measured.items()})

    def draw(step: int, state: TrainState) -> None:
        if job.preview is not None:
            _draw(job, job.preview, step, state, logger)

    return [
        Action(settings.log_every, lambda step, state: checkpoints.check(), name="waiting for the last checkpoint"),
        Action(settings.eval_every, evaluate, name="measuring the held-out loss"),
        Action(settings.sample_every, draw, name="drawing samples"),
        Action(settings.checkpoint_every, save, part="save", keeps=True, name="saving a checkpoint"),
    ]


def _draw(job: Job, preview: Preview, step: int, state: TrainState, logger: MetricLogger) -> None:
    """Writes a picture of samples."""
    recipe = job.recipe
    images = preview.generator(recipe.run_key("sample"), pick_params(state, None), preview.number)
    title = f"Step {step:,}: samples of {images.nfe.mean():.0f} evaluations"
    picture = sample_picture(preview.spec, images.x, images.condition, title)
    if job.workdir is not None and job.is_writer and picture is not None:
        plots.save_image(job.workdir / "samples" / f"step_{step:08d}.png", picture)
        logger.log_image(step, "samples", picture)


@contextlib.contextmanager
def _clear_errors(workdir: pathlib.Path) -> Iterator[None]:
    """A context that turns a failed write of the system into a sentence with a remedy."""
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
    """Whether an error's file lies in `workdir` or is a folder above it.

    The error of a full disk names no file, and counts too. Data lie elsewhere.
    """
    if not isinstance(filename, str | os.PathLike):
        return True
    path, folder = pathlib.Path(filename).absolute(), workdir.absolute()
    return path.is_relative_to(folder) or folder.is_relative_to(path)
