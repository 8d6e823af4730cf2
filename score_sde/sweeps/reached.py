"""Checks that training has reached its end: python -m score_sde.sweeps.reached WORKDIR NUM_STEPS.

If it has not, the exit status says that the process was preempted.
"""

import pathlib
import sys

from score_sde.sweeps.metric import last_step


def main(workdir: str, num_steps: str) -> int:
    """0 when the last logged step is at least `num_steps`, else 143, the status of a process that SIGTERM ended."""
    return 0 if last_step(pathlib.Path(workdir)) >= int(num_steps) else 143


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
