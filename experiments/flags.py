"""Flags that several entry points share, and the start of each."""

import pathlib
from collections.abc import Callable

from absl import app, flags, logging

WORKDIR = flags.DEFINE_string("workdir", None, "The folder of the run: checkpoints, metrics and pictures.")
CHECKPOINT = flags.DEFINE_integer("checkpoint", None, "The step of the checkpoint; the newest if not given.")
EMA = flags.DEFINE_string("ema", None, "Half-life of the average to use, in thousands of images, or 'none' for none.")
DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Join the other processes of the run (TPU pod, Slurm, …).")


def workdir_path() -> pathlib.Path:
    """The value of --workdir."""
    return pathlib.Path(WORKDIR.value or ".")


def start(main: Callable[[], None], required: tuple[str, ...] = ("workdir",)) -> None:
    """Parses the flags, prepares the host for JAX, and calls `main`; a user's mistake becomes one line, not a trace."""
    flags.mark_flags_as_required(list(required))

    def prepared(argv: list[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(f"Unknown arguments {argv[1:]}; flags start with --.")
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # orbax and jax say a lot at INFO
        from score_sde import parallel

        if DISTRIBUTED.value:
            parallel.initialize_distributed()
        parallel.configure_host()
        try:
            main()
        except (ValueError, OSError, FloatingPointError) as error:
            if flags.FLAGS.verbosity > 0:
                raise
            raise SystemExit(f"Error: {error}\n(--verbosity=1 shows where.)") from error

    app.run(prepared)
