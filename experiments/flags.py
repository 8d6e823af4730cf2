"""Flags that several entry points share, and the start of each."""

import pathlib
import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING

from absl import app, flags, logging

if TYPE_CHECKING:  # --help loads no framework
    from ml_collections import ConfigDict

    from score_sde.experiment import Experiment

WORKDIR = flags.DEFINE_string("workdir", None, "The folder of the run: checkpoints, metrics and pictures.")
CHECKPOINT = flags.DEFINE_integer("checkpoint", None, "The step of the checkpoint; the newest if not given.")
EMA = flags.DEFINE_string("ema", None, "Half-life of the average to use, in thousands of images, or 'none' for none.")
DISTRIBUTED = flags.DEFINE_enum(
    "distributed",
    "auto",
    ["auto", "on", "off"],
    "Join the other processes of the run: 'auto' on a TPU pod, on Slurm, and where an address is given.",
)
COORDINATOR_ADDRESS = flags.DEFINE_string("coordinator_address", None, "HOST:PORT of process 0 of several.")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes run together.", lower_bound=1)
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this one is, from 0.", lower_bound=0)
COORDINATOR_TIMEOUT = flags.DEFINE_integer(
    "coordinator_timeout", 300, "Seconds until all processes must have met.", lower_bound=1
)


def workdir_path() -> pathlib.Path:
    """The value of --workdir."""
    return pathlib.Path(WORKDIR.value or ".")


def config_or_run(program: str, config: "ConfigDict | None") -> "Experiment":
    """The experiment of `config`, the value of --config, or, without one, of the run in --workdir.

    Raises: ValueError where both or neither are given.
    """
    from score_sde.experiment import Experiment, from_workdir

    if (config is None) == (WORKDIR.value is None):
        raise ValueError(f"{program} needs --config=FILE.py, or --workdir=DIR for the config of a run; one of the two.")
    return from_workdir(workdir_path()) if config is None else Experiment(config)


def start(main: Callable[[], None], required: tuple[str, ...] = ("workdir",)) -> None:
    """Parses the flags, prepares the host for JAX, and calls `main`; a user's mistake becomes one line, not a trace."""
    flags.mark_flags_as_required(list(required))
    for flag in (DISTRIBUTED, COORDINATOR_ADDRESS, NUM_PROCESSES, PROCESS_ID, COORDINATOR_TIMEOUT):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[flag.name])  # --help shows them

    def prepared(argv: list[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(f"Unknown arguments {argv[1:]}; flags start with --.")
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # orbax and jax say a lot at INFO
        from score_sde import parallel

        try:
            _join_processes()
            main()
        except Exception as error:
            known = isinstance(error, ValueError | OSError | FloatingPointError) and flags.FLAGS.verbosity <= 0
            text = f"Error: {error}\n(--verbosity=1 shows where.)" if known else traceback.format_exc()
            parallel.end_failed_process(text)
            if known:
                raise SystemExit(text) from error
            raise

    app.run(prepared)


def _join_processes() -> None:
    """Joins the other processes, if there are any, and sets JAX up."""
    from score_sde import parallel

    processes = parallel.find_processes(
        DISTRIBUTED.value, COORDINATOR_ADDRESS.value, NUM_PROCESSES.value, PROCESS_ID.value
    )
    parallel.configure_host(processes_here=processes.number_here if processes else 1)
    if processes is not None:
        parallel.initialize_distributed(processes, COORDINATOR_TIMEOUT.value)
