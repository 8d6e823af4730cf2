"""Runs a sweep on Slurm through submitit: one array job of the open trials.

A preempted trial is requeued. No process stays on the login node. A second call submits the trials
that are neither finished nor in the queue. From an adaptive search it asks for as many trials as
may run at once. It needs the extra `sweeps`.
"""

import contextlib
import logging
import os
import pathlib
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from score_sde.sweeps.execution import Execution, executable, run_to_end
from score_sde.sweeps.pending import Queue
from score_sde.sweeps.spec import Sweep
from score_sde.sweeps.trial import JOB, LOG, Record, Trial

CLUSTERS, POLL_SECONDS = ("slurm", "local", "debug"), 0.2


class Job:
    """The object that submitit pickles: a trial that runs to its end.

    When Slurm gives notice, the trial saves and is requeued.
    """

    def __init__(self, trial: Trial, environment: Mapping[str, str], max_retries: int):
        self.trial, self.environment, self.max_retries = trial, dict(environment), max_retries

    def __call__(self) -> str:
        rank = _submitit().JobEnvironment().global_rank
        if rank > 0:
            return self._follow(rank)
        execution = Execution(self.trial, self.environment, max_retries=self.max_retries)
        self._execution = execution
        record = run_to_end(execution)
        if record.state == "failed":
            raise RuntimeError(f"{self.trial.name} failed: {record.message}")
        return record.state

    def checkpoint(self) -> Any:
        """Saves, and is submitted again. submitit calls it on the notice of preemption or of the time limit."""
        if hasattr(self, "_execution"):
            self._execution.stop("requeued")
        return _submitit().helpers.DelayedSubmission(Job(self.trial, self.environment, self.max_retries))

    def _follow(self, rank: int) -> str:
        """Runs the same commands in the other processes of a run on several nodes. The first process keeps the record."""
        with (self.trial.folder / f"{rank}.{LOG}").open("ab") as log:
            for command in self.trial.commands[len(self.trial.record().done) :]:
                subprocess.run(executable(command), stdout=log, stderr=subprocess.STDOUT, check=True)
        return "followed"


def run_slurm(sweep: Sweep, queue: Queue, folder: pathlib.Path, max_parallel: int | None) -> list[str]:
    """Submits the open trials that are not in a queue. Returns their jobs.

    Raises: ValueError without Slurm, or for an unknown parameter.
    """
    executor, cluster = _executor(sweep, folder, max_parallel)
    active = active_jobs() if cluster == "slurm" else set()
    trials: list[Trial] = []
    limit = max_parallel or 1
    busy = sum(trial.job in active for trial in queue.trials.values())
    while not (sweep.search.adaptive and len(trials) + busy >= limit):
        trial = queue.next()
        if trial is None:
            break
        if trial.job not in active:
            trials.append(trial)
    size = len(trials) if cluster == "slurm" else limit  # submitit's local executor would start all trials at once
    names = []
    for first in range(0, len(trials), max(size, 1)):
        part = trials[first : first + size]
        jobs = _submit(executor, part, sweep)
        names += [str(job.job_id) for job in jobs]
        if cluster != "slurm":
            while not all(job.done(force_check=True) for job in jobs):
                time.sleep(POLL_SECONDS)
    return names


def active_jobs() -> set[str]:
    """The user's waiting and running jobs, as ARRAY_INDEX."""
    command = ["squeue", "--me", "--array", "--noheader", "--format=%i"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    return {line.strip() for line in listed.stdout.splitlines() if line.strip()}


def script(sweep: Sweep, folder: pathlib.Path, number: int, max_parallel: int | None) -> str:
    """The sbatch script of an array of `number` trials.

    Raises: ValueError for a parameter that submitit does not know.
    """
    submitit = _submitit()
    from submitit.slurm.slurm import _make_sbatch_string

    parameters = {name: value for name, value in _parameters(sweep, max_parallel).items() if value is not None}
    known = submitit.SlurmExecutor._valid_parameters()
    unknown = [name for name in parameters if name not in known]
    if unknown:
        raise ValueError(
            f"The field `slurm` of a sweep has {unknown}, which submitit does not know; it has {sorted(known)}."
        )
    command = f"python -u -m submitit.core._submit {folder / 'slurm'}"
    return _make_sbatch_string(command, folder / "slurm", map_count=number, **parameters)


def _executor(sweep: Sweep, folder: pathlib.Path, max_parallel: int | None) -> tuple[Any, str]:
    submitit, cluster = _submitit(), sweep.slurm.get("cluster", "slurm")
    if cluster not in CLUSTERS:
        raise ValueError(f"slurm.cluster needs one of {CLUSTERS}, got {cluster!r}.")
    if cluster == "debug":
        return submitit.DebugExecutor(folder / "slurm"), cluster
    if cluster == "local":
        return submitit.LocalExecutor(folder / "slurm"), cluster
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise ValueError(
            "--launcher=slurm needs sbatch and srun on the PATH; run it on a login node, or with --dry_run."
        )
    script(sweep, folder, 1, max_parallel)  # raises an error for unknown parameters
    executor = submitit.SlurmExecutor(folder / "slurm", max_num_timeout=1000)
    executor.update_parameters(**_parameters(sweep, max_parallel))
    return executor, cluster


def _parameters(sweep: Sweep, max_parallel: int | None) -> dict[str, Any]:
    given = {name: value for name, value in sweep.slurm.items() if name != "cluster"}
    limit = {"array_parallelism": max_parallel} if max_parallel else {}
    return {"job_name": "sweep", **limit, **given}


def _submit(executor: Any, trials: Sequence[Trial], sweep: Sweep) -> list[Any]:
    for trial in trials:
        before = trial.record()
        trial.write_record(Record(state="queued", retries=before.retries, done=before.done, seconds=before.seconds))
    with executor.batch():
        jobs = [executor.submit(Job(trial, sweep.environment, sweep.max_retries)) for trial in trials]
    for trial, job in zip(trials, jobs, strict=True):
        (trial.folder / JOB).write_text(f"{job.job_id}\n")
    return jobs


def _submitit() -> Any:
    """The module submitit. Only this function imports it.

    By default, its import calls logging.config.dictConfig, which closes every handler of the
    process. A log file that was opened with mode "w" then stays silent. NOCONFIG is submitit's own
    way to leave logging as it is. Its messages then go to our handlers, from the level that
    SUBMITIT_LOG_LEVEL names.
    """
    level = os.environ.get("SUBMITIT_LOG_LEVEL", "INFO").upper()
    try:
        with _environment(SUBMITIT_LOG_LEVEL="NOCONFIG"):
            import submitit
    except ImportError as error:
        raise ValueError(
            "--launcher=slurm needs submitit; install the extra: pip install 'score_sde[sweeps]'."
        ) from error
    if level != "NOCONFIG":
        logging.getLogger("submitit").setLevel(int(level) if level.isdigit() else level)
    return submitit


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    """A context that sets environment variables, and restores them at the end. Jobs inherit the user's variables."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
