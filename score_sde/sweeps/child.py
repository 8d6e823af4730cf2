"""A wrapper that takes its share of the cores, asks for SIGTERM if its parent dies, and then becomes its command.

It imports nothing of the package, because it runs as a file in a bare interpreter: about 20 ms per
command.
"""

import os
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG, _SIGTERM = 1, 15


def command(words: Sequence[str], cores: Sequence[int] | None) -> list[str]:
    """The wrapper's command line around `words`."""
    mine = "all" if cores is None else ",".join(map(str, cores))
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), mine, *words]


def main() -> None:
    """Becomes the command in its arguments, which are PARENT CORES WORD WORD and so on."""
    parent, cores, words = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    if cores != "all" and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, _SIGTERM)
        if os.getppid() != parent:  # the parent died before SIGTERM was asked for
            sys.exit(128 + _SIGTERM)
    try:
        os.execvp(words[0], words)
    except OSError as error:
        sys.exit(f"The command {words[0]!r} cannot be started: {error}")


if __name__ == "__main__":
    main()
