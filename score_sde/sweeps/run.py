"""The command `score-sde sweep`: it runs a sweep, shows what it would run, or shows its status."""

import dataclasses
import pathlib
import shlex
from collections.abc import Callable

from score_sde.sweeps import slurm, tpu
from score_sde.sweeps.checking import check_trial
from score_sde.sweeps.local import is_locked, run_local
from score_sde.sweeps.optuna_search import JOURNAL
from score_sde.sweeps.pending import Queue
from score_sde.sweeps.pictures import metric_against_axes
from score_sde.sweeps.sharing import available_cores, available_gpus, share
from score_sde.sweeps.spec import Sweep
from score_sde.sweeps.status import Row, rows, table
from score_sde.training.stopping import kept

TABLE, PICTURE = "table.md", "metric.png"
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Options:
    """How to run a sweep.

    The options are the launcher's name, the number of trials at once, whether to run failed trials
    too, and whether to check configs.
    """

    launcher: str = "local"
    max_parallel: int | None = None
    retry_failed: bool = False
    check: bool = True


def run_sweep(sweep: Sweep, folder: pathlib.Path, options: Options, say: Say = print) -> bool:
    """Runs the open trials of a sweep in `folder`, or submits them to a cluster, and prints the table.

    Returns: whether no trial has failed.
    Raises: ValueError, before any trial starts, for a trial that could not run. KeyboardInterrupt
      where the sweep was asked to stop, after the trials have saved and the table is printed.
    """
    if options.launcher == "local":
        if is_locked(folder):
            say(f"Another sweep, or a trial of one that was killed, still runs in {folder}; waiting for it.")
        slots = share(options.max_parallel, available_cores(), available_gpus())
        queue = _queue(sweep, folder, options)
        try:
            with kept(lambda: _saved(sweep, folder)):
                run_local(sweep, queue, folder, slots)
        except KeyboardInterrupt:
            show_status(sweep, folder, say)
            raise
    else:
        queue, refused = _queue(sweep, folder, options), list[str]()
        with kept("jobs that were started go on. The same command starts the others."):
            if options.launcher == "slurm":
                jobs = slurm.run_slurm(sweep, queue, folder, options.max_parallel)
            else:
                jobs, refused = tpu.run_tpu(sweep, queue, folder, options.launcher, options.max_parallel)
        say("\n".join([f"{len(jobs)} jobs started: {', '.join(jobs) or 'none'}; --status shows them.", *refused]))
    found = show_status(sweep, folder, say)
    return not any(row.state == "failed" for row in found)


def _saved(sweep: Sweep, folder: pathlib.Path) -> str:
    states = [trial.record().state for trial in Queue(sweep, folder, write=False).trials.values()]
    ended = sum(state in ("finished", "pruned") for state in states)
    return f"{ended} of {len(states)} trials are finished, and all is saved in {folder}. The same command goes on from there."


def show_status(sweep: Sweep, folder: pathlib.Path, say: Say = print) -> list[Row]:
    """Prints the table of all trials. It also writes the table, and the picture of the metric against each axis.

    Raises: ValueError when a finished trial does not have the metric.
    """
    queue = Queue(sweep, folder, write=False)
    found = rows(list(queue.trials.values()), sweep.metric, alive=is_locked(folder))
    text = table(found, sweep.metric)
    say(text)
    if folder.is_dir():
        (folder / TABLE).write_text(text + "\n")
    if any(row.value is not None for row in found):
        say(f"Plot: {metric_against_axes(found, sweep.metric, folder / PICTURE)}")
    return found


def show_commands(sweep: Sweep, folder: pathlib.Path, options: Options, say: Say = print) -> None:
    """Prints the commands that would run. It starts and writes nothing.

    Raises: ValueError for a trial that could not run.
    """
    if sweep.search.adaptive and not (folder / JOURNAL).exists():
        say("The search chooses each trial when it starts; none is known yet.")
        return
    queue = Queue(sweep, folder, options.retry_failed, check_trial if options.check else None, write=False)
    trials = list(queue.trials.values())
    for trial in trials:
        say(f"# {trial.name}: {trial.record().state}")
        if options.launcher == "xpk":
            say(shlex.join(tpu.xpk_command(sweep, folder, trial)))
        elif options.launcher == "jobset":
            say("---\n" + tpu.jobset_yaml(sweep, folder, trial))
        else:
            say("\n".join(shlex.join(command) for command in trial.commands))
    if options.launcher == "slurm":
        say(f"# the array job\n{slurm.script(sweep, folder, len(trials), options.max_parallel)}")
    say(f"# {len(trials)} trials")


def _queue(sweep: Sweep, folder: pathlib.Path, options: Options) -> Queue:
    return Queue(sweep, folder, options.retry_failed, check_trial if options.check else None)
