"""Flags that several entry points share, and the start of each."""

import inspect
import pathlib
import re
import runpy
import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from absl import app, flags, logging
from ml_collections import ConfigDict

import configs
from score_sde.building import check_path, closest

if TYPE_CHECKING:  # --help loads no framework
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


def config_or_run(program: str, config: ConfigDict | None) -> "Experiment":
    """The experiment of `config`, the value of --config, or, without one, of the run in --workdir.

    Raises: ValueError where both or neither are given.
    """
    from score_sde.experiment import Experiment, from_workdir

    if (config is None) == (WORKDIR.value is None):
        raise ValueError(f"{program} needs --config=FILE.py, or --workdir=DIR for the config of a run; one of the two.")
    return from_workdir(workdir_path()) if config is None else Experiment(config)


def start(main: Callable[[], None], required: tuple[str, ...] = ("workdir",), large_buffers: bool = True) -> None:
    """Parses the flags, prepares the host for JAX, and calls `main`; a user's mistake becomes one line, not a trace.

    Without `large_buffers` the host is prepared for compiling small programs (`parallel.keep_heap_pages`).
    """
    flags.mark_flags_as_required(list(required))
    for flag in (DISTRIBUTED, COORDINATOR_ADDRESS, NUM_PROCESSES, PROCESS_ID, COORDINATOR_TIMEOUT):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[flag.name])  # --help shows them

    def parsed(argv: list[str]) -> list[str]:
        try:
            check_config_flags(argv)
        except (ValueError, OSError) as error:
            raise SystemExit(f"Error: {error}") from error
        return app.parse_flags_with_usage(argv)

    def prepared(argv: list[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(f"Unknown arguments {argv[1:]}; flags start with --.")
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # orbax and jax say a lot at INFO
        from score_sde import parallel

        try:
            _join_processes(large_buffers)
            main()
        except Exception as error:
            sentence = sentence_of(error)
            known = sentence is not None and flags.FLAGS.verbosity <= 0
            text = f"Error: {sentence}\n(--verbosity=1 shows where.)" if known else traceback.format_exc()
            parallel.end_failed_process(text)
            if known:
                raise SystemExit(text) from error
            raise

    app.run(prepared, flags_parser=parsed)


def sentence_of(error: Exception) -> str | None:
    """What to tell a user of an error: its message, or the sentence in what a compiled program raised; None: it is a bug."""
    if isinstance(error, ValueError | OSError | FloatingPointError):
        return str(error)
    unfinished = re.search(r"RuntimeError: (Adaptive did not reach the end .*)", str(error))
    return unfinished[1] if unfinished else None


def check_config_flags(argv: list[str]) -> None:
    """Checks --config=FILE.py[:variant] and the fields of --config.FIELD=VALUE, without loading JAX.

    Raises: FileNotFoundError or ValueError that lists the known ones with the closest. A wrong value is absl's to refuse.
    """
    if "config" not in flags.FLAGS:
        return
    given = re.findall(r"^--?config(?:=|\n)(.+)$", "\n".join(argv[1:]), re.MULTILINE)
    if given:
        config = load_config(given[-1])
        for path in re.findall(r"^--?(?:no)?config\.([\w.]+)", "\n".join(argv[1:]), re.MULTILINE):
            check_path(config, path, flag="--config.")


def load_config(name: str) -> ConfigDict:
    """The config of FILE.py[:variant]."""
    file, _, variant = name.partition(":")
    if not pathlib.Path(file).is_file():
        folder = pathlib.Path(configs.__file__).parent
        paths = [path.relative_to(folder.parent).as_posix() for path in sorted(folder.rglob("*.py"))]
        known = [path for path in paths if not path.endswith("__init__.py") and "/sweeps/" not in path]
        raise FileNotFoundError(
            f"--config needs FILE.py[:variant], got {name!r}; there are {known}.{closest(file, known)}"
        )
    get_config: Any = runpy.run_path(file).get("get_config")
    if get_config is None:
        raise ValueError(f"--config needs a file with a function get_config() that returns a ConfigDict, got {file}.")
    if variant and not inspect.signature(get_config).parameters:
        raise ValueError(f"{file} has no variants, got {variant!r}; drop it.")
    config = get_config(variant) if variant else get_config()
    if not isinstance(config, ConfigDict):
        raise ValueError(f"get_config() of {file} needs to return a ConfigDict, got {type(config).__name__}.")
    return config


def _join_processes(large_buffers: bool) -> None:
    """Joins the other processes, if there are any, and sets JAX up."""
    from score_sde import parallel

    processes = parallel.find_processes(
        DISTRIBUTED.value, COORDINATOR_ADDRESS.value, NUM_PROCESSES.value, PROCESS_ID.value
    )
    here = processes.number_here if processes else 1
    parallel.configure_host(processes_here=here, large_buffers=large_buffers)
    if processes is not None:
        parallel.initialize_distributed(processes, COORDINATOR_TIMEOUT.value)
