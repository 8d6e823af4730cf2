"""Replaces experiments.train: the same arguments and metrics.jsonl, without JAX. FAKE_… variables make it misbehave."""

import json
import math
import os
import pathlib
import signal
import sys
import time

given = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:])
workdir, steps = pathlib.Path(given["workdir"]), int(given["config.training.num_steps"])
rate = float(given.get("config.optimizer.learning_rate", 1e-3))
workdir.mkdir(parents=True, exist_ok=True)
metrics = workdir / "metrics.jsonl"
start = len(metrics.read_text().splitlines()) if metrics.exists() else 0
with (workdir / "starts.jsonl").open("a") as file:
    about = {"step": start, "arguments": sys.argv[1:], "pid": os.getpid(), "affinity": sorted(os.sched_getaffinity(0))}
    about |= {"gpu": os.environ.get("CUDA_VISIBLE_DEVICES"), "stopped_exit": os.environ.get("SCORE_SDE_STOPPED_EXIT")}
    file.write(json.dumps(about) + "\n")
if str(rate) == os.environ.get("FAKE_FAIL"):
    sys.stdout.write("Error: the learning rate is cursed.\n(--verbosity=1 shows where.)\n")
    sys.stdout.flush()
    sys.exit(3)
if "FAKE_LATE" in os.environ:  # saves and exits well, as the real one does
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
for _ in range(30_000):  # until so many have started
    if len(list(workdir.parent.glob("*/starts.jsonl"))) >= int(os.environ.get("FAKE_TOGETHER", "0")):
        break
    time.sleep(0.01)
for step in range(start + 1, steps + 1):
    time.sleep(float(os.environ.get("FAKE_SECONDS", "0")))
    with metrics.open("a") as file:
        file.write(json.dumps({"step": step, "loss": (math.log10(rate) + 3) ** 2 + 1 / step}) + "\n")
    if "FAKE_END" in os.environ and step >= start + int(os.environ.get("FAKE_STEPS", "1")):
        number = int(os.environ["FAKE_END"])
        if number == 0:
            sys.exit(0)
        os.kill(os.getpid(), number)
if "FAKE_NEVER" in os.environ:
    os.kill(os.getpid(), signal.SIGKILL)
