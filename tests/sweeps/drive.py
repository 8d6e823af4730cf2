"""Runs the sweep in a JSON file on this machine, so that a test can kill it: python drive.py SWEEP.json FOLDER SLOTS."""

import json
import pathlib
import sys

from score_sde.sweeps import build_sweep
from score_sde.sweeps.run import Options, run_sweep
from score_sde.training.stopping import closing_line, exit_status, interruptible

sweep, folder = build_sweep(json.loads(pathlib.Path(sys.argv[1]).read_text())), pathlib.Path(sys.argv[2])
with interruptible():
    try:
        run_sweep(sweep, folder, Options(max_parallel=int(sys.argv[3]), check=False))
        sys.stdout.write("ended\n")
    except KeyboardInterrupt as stop:
        sys.stdout.write(f"{closing_line(stop)}\n")
        sys.exit(exit_status(stop))
