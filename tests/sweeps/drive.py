"""Runs the sweep in a JSON file on this machine, to be killed by a test: python drive.py SWEEP.json FOLDER SLOTS."""

import json
import pathlib
import sys

from score_sde.sweeps import Queue, build_sweep
from score_sde.sweeps.local import run_local
from score_sde.sweeps.sharing import share

sweep, folder = build_sweep(json.loads(pathlib.Path(sys.argv[1]).read_text())), pathlib.Path(sys.argv[2])
queue, slots = Queue(sweep, folder), share(int(sys.argv[3]), [0, 1], [])
sys.stdout.write("ended" if run_local(sweep, queue, folder, slots) else "stopped")
