"""Flags that several entry points share, and the start of each."""

import pathlib
import re
import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING

from absl import app, flags, logging
from ml_collections import ConfigDict

from score_sde.config import NO_CATALOGUES, Catalogues, apply_overrides, load_config
from score_sde.training.stopping import closing_line, exit_status, interruptible

if TYPE_CHECKING:  # --help loads no framework
    from score_sde.experiment import Experiment

WORKDIR = flags.DEFINE_string("workdir", None, "The folder of the run: checkpoints, metrics and pictures.")
CHECKPOINT = flags.DEFINE_integer("checkpoint", None, "The step of the checkpoint. Default: the newest.")
EMA = flags.DEFINE_string(
    "ema",
    None,
    "The average to use: its half-life in thousands of images, or 'none' for the raw parameters. By default the shortest.",
)
DISTRIBUTED = flags.DEFINE_enum(
    "distributed",
    "auto",
    ["auto", "on", "off"],
    "Whether to join the other processes of the run. 'auto' joins them on a TPU pod, on Slurm, and if an address is given.",
)
COORDINATOR_ADDRESS = flags.DEFINE_string("coordinator_address", None, "HOST:PORT of process 0, for several processes.")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "The number of processes that run together.", lower_bound=1)
PROCESS_ID = flags.DEFINE_integer("process_id", None, "The number of this process, from 0.", lower_bound=0)
COORDINATOR_TIMEOUT = flags.DEFINE_integer(
    "coordinator_timeout", 300, "Seconds to wait for the other processes.", lower_bound=1
)


class ConfigFlag:
    """The flag --config=FILE.py[:variant] of a program, and its --config.FIELD=VALUE."""

    def __init__(self, default: str | None):
        self._default, self._overrides = default, list[tuple[str, str]]()

    @property
    def value(self) -> ConfigDict | None:
        """The config with the fields set. None if no file is given."""
        from score_sde.catalogues import CATALOGUES

        return self._load(CATALOGUES)

    def split(self, argv: list[str]) -> list[str]:
        """Keeps every --config.FIELD=VALUE here, and returns the other arguments.

        --config.FIELD without a value is True, and --noconfig.FIELD is False.
        """
        others: list[str] = []
        waiting = [argv[0], *flags.FLAGS.read_flags_from_files(argv[1:], force_gnu=False)]
        while waiting:
            argument = waiting.pop(0)
            found = re.fullmatch(r"--?(no)?config\.([^=]+)(?:=(.*))?", argument, re.DOTALL)
            if argument == "--":
                return [*others, argument, *waiting]
            if found is None:
                others.append(argument)
                continue
            negated, path, text = found.groups()
            if text is None:
                is_flag = negated or not waiting or waiting[0].startswith("--")
                text = str(not negated) if is_flag else waiting.pop(0)
            self._overrides.append((path, text))
        return others

    def check(self) -> None:
        """Checks the file and the fields of fixed sections, without loading JAX.

        Raises: FileNotFoundError or ValueError. The message lists the known names and the closest one.
        """
        self._load(NO_CATALOGUES)

    def _load(self, catalogues: Catalogues) -> ConfigDict | None:
        name = flags.FLAGS.config or self._default
        if name is None:
            if self._overrides:
                raise ValueError(f"--config.{self._overrides[0][0]} needs --config=FILE.py too.")
            return None
        config = load_config(name)
        apply_overrides(config, self._overrides, catalogues)
        return config


_CONFIGS: list[ConfigFlag] = []  # of this program, none or one


def define_config(text: str = "FILE.py[:variant] with get_config().", default: str | None = None) -> ConfigFlag:
    """Defines --config for a program, with the help `text`. `default` is the file if none is given."""
    flags.DEFINE_string(
        "config", None, f"{text} --config.FIELD=VALUE sets a field, for example --config.sde.beta_max=18."
    )
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS["config"])
    _CONFIGS.append(ConfigFlag(default))
    return _CONFIGS[-1]


def workdir_path() -> pathlib.Path:
    """The value of --workdir."""
    return pathlib.Path(WORKDIR.value or ".")


def config_or_run(program: str, config: ConfigDict | None) -> "Experiment":
    """The experiment of `config`, the value of --config, or, without one, of the run in --workdir.

    Raises: ValueError where both or neither are given.
    """
    from score_sde.experiment import Experiment
    from score_sde.run_config import from_workdir

    if (config is None) == (WORKDIR.value is None):
        raise ValueError(f"{program} needs --config=FILE.py, or --workdir=DIR for the config of a run; one of the two.")
    return from_workdir(workdir_path()) if config is None else Experiment(config)


def start(main: Callable[[], None], required: tuple[str, ...] = ("workdir",), large_buffers: bool = True) -> None:
    """Parses the flags, prepares the host for JAX, and calls `main`.

    A user's mistake is printed as one line, without a trace. Without `large_buffers` the host is
    prepared for compiling small programs (`parallel.keep_heap_pages`).
    """
    flags.mark_flags_as_required(list(required))
    for flag in (DISTRIBUTED, COORDINATOR_ADDRESS, NUM_PROCESSES, PROCESS_ID, COORDINATOR_TIMEOUT):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[flag.name])  # --help shows them

    def prepared(argv: list[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(f"Unknown arguments {argv[1:]}; flags start with --.")
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # orbax and jax say a lot at INFO
        with interruptible():
            _run(main, large_buffers)

    app.run(prepared, flags_parser=_parsed)


def _parsed(argv: list[str]) -> list[str]:
    """Parses the flags. A mistake in a flag ends the program with one line, before JAX is loaded."""
    for config in _CONFIGS:
        argv = config.split(argv)
    others = app.parse_flags_with_usage(argv)
    try:
        for config in _CONFIGS:
            config.check()
    except (ValueError, OSError) as error:
        raise SystemExit(f"Error: {error}") from error
    return others


def _run(main: Callable[[], None], large_buffers: bool) -> None:
    try:
        from score_sde import parallel

        for config in _CONFIGS:
            config.value  # noqa: B018  a mistake in it is told before the processes wait for each other
        _join_processes(large_buffers)
        main()
    except KeyboardInterrupt as stop:
        line = closing_line(stop)
        getattr(sys.modules.get("score_sde.parallel"), "end_failed_process", str)(line)  # JAX may be half loaded
        print(line, flush=True)
        sys.exit(exit_status(stop))
    except Exception as error:
        sentence = sentence_of(error)
        known = sentence is not None and flags.FLAGS.verbosity <= 0
        text = f"Error: {sentence}\n(--verbosity=1 shows where.)" if known else traceback.format_exc()
        parallel.end_failed_process(text)
        if known:
            raise SystemExit(text) from error
        raise


def sentence_of(error: Exception) -> str | None:
    """The message of an error for a user. None if the error is a bug."""
    if isinstance(error, ValueError | OSError | FloatingPointError):
        return str(error)
    unfinished = isinstance(error, RuntimeError) and str(error).startswith("Adaptive did not reach the end")
    return str(error) if unfinished else None


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
