"""Runs and compares trainings: score-sde sweep --sweep=configs/sweeps/digits_sdes.py --workdir=runs/sweep

Each trial is an ordinary training in WORKDIR/trials/<id>. If the command is interrupted,
run it again: it continues where it stopped. --status shows the table and plots the metric
against each axis. --dry_run prints the commands.
"""

import dataclasses
import sys

from absl import flags

from .flags import start, workdir_path

SWEEP = flags.DEFINE_string("sweep", None, "FILE.py[:variant] with get_sweep(). configs/sweeps/ has examples.")
LAUNCHER = flags.DEFINE_enum("launcher", "local", ["local", "slurm", "xpk", "jobset"], "Where the trials run.")
MAX_PARALLEL = flags.DEFINE_integer(
    "max_parallel", None, "Number of trials at once. Default: one for each GPU, or 1 without GPUs.", lower_bound=1
)
RETRY_FAILED = flags.DEFINE_bool("retry_failed", False, "Run the failed trials again too.")
STATUS = flags.DEFINE_bool("status", False, "Only show the table, and write table.md and metric.png.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only print the commands, and what the launcher would submit.")
METRIC = flags.DEFINE_string(
    "metric", None, "Compare by this metric instead: a name in metrics.jsonl, or FILE.json:PATH."
)
flags.declare_key_flag("workdir")


def main() -> None:
    import jax

    jax.config.update("jax_platforms", "cpu")  # of this process: the accelerators are the trials'
    from score_sde.sweeps import Metric, load_sweep
    from score_sde.sweeps.run import Options, run_sweep, show_commands, show_status

    sweep, folder = load_sweep(SWEEP.value or ""), workdir_path()
    if METRIC.value:
        sweep = dataclasses.replace(sweep, metric=Metric(METRIC.value))
    options = Options(LAUNCHER.value, MAX_PARALLEL.value, RETRY_FAILED.value)
    if DRY_RUN.value:
        show_commands(sweep, folder, options)
    elif STATUS.value:
        show_status(sweep, folder)
    elif not run_sweep(sweep, folder, options):
        sys.exit(1)


if __name__ == "__main__":
    start(main, required=("sweep", "workdir"))
