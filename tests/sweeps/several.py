"""Code that the tests of sweeps share."""

import io
import json
import os
import pathlib
import sys
import time

from score_sde.sweeps import Queue, Sweep, build_sweep
from score_sde.sweeps.local import run_local
from score_sde.sweeps.sharing import share

FAKE = [sys.executable, str(pathlib.Path(__file__).parent / "fake_train.py")]
DRIVE = [sys.executable, str(pathlib.Path(__file__).parent / "drive.py")]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parents[2])}


def described(rates=(1e-4, 1e-3, 1e-2), steps=4, **fields) -> dict:
    """A sweep of fake trainings over learning rates; the loss at the end is (log10 rate + 3)² + 1 / steps."""
    return {
        "config": "configs/density2d.py",
        "axes": {"optimizer.learning_rate": list(rates)},
        "overrides": {"training.num_steps": steps},
        "metric": "loss",
        "train": FAKE,
        **fields,
    }


def fake_sweep(*args, **fields) -> Sweep:
    return build_sweep(described(*args, **fields))


def run(sweep: Sweep, folder: pathlib.Path, slots: int = 2, retry_failed: bool = False) -> tuple[Queue, str]:
    """Runs a sweep here to its end; returns its queue and what it printed."""
    queue, printed = Queue(sweep, folder, retry_failed), io.StringIO()
    run_local(sweep, queue, folder, share(slots, [0, 1], []), stream=printed)
    return queue, printed.getvalue()


def starts(trial) -> list[dict]:
    """What each start of a fake training wrote."""
    path = trial.folder / "starts.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def states(queue: Queue) -> list[str]:
    return [trial.record().state for trial in queue.trials.values()]


def until(condition, seconds=300):
    """Waits; a machine that needs longer hangs."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
