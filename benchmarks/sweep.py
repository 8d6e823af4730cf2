"""The cost of a sweep: the time of a sweep of two short trainings, against the same two commands alone.

An empty training command shows the cost of the sweep per trial. A real command, an MLP for 200
steps, shows how large this cost is in practice.
"""

import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

TRIALS, STEPS = 2, 200
EMPTY = (
    "import json, pathlib, sys; given = dict(word.split('=', 1) for word in sys.argv[1:]); "
    "folder = pathlib.Path(given['--workdir']); folder.mkdir(parents=True, exist_ok=True); "
    f"(folder / 'metrics.jsonl').write_text(json.dumps(dict(step={STEPS}, loss=1.0)) + chr(10))"
)
COMMANDS = {"empty": [sys.executable, "-c", EMPTY], "train": ["python", "-m", "score_sde", "train"]}


def run(rounds: int) -> dict[str, float]:
    """Measures both in turn. Prints medians, the extra cost of a trial, and the ratio."""
    ratios = {}
    for name, train in COMMANDS.items():
        seconds: dict[str, list[float]] = {"alone": [], "sweep": [], "command": []}
        ways = {"alone": alone, "sweep": in_sweep, **({"command": by_command} if name == "empty" else {})}
        for index in range(rounds + 1):  # the first fills the compilation cache
            with tempfile.TemporaryDirectory() as folder:
                for kind, way in ways.items():
                    start = time.perf_counter()
                    way(described(train), pathlib.Path(folder) / kind)
                    if index:
                        seconds[kind].append(time.perf_counter() - start)
        medians = {kind: statistics.median(values) / TRIALS for kind, values in seconds.items() if values}
        extra = [(mine - bare) / TRIALS for mine, bare in zip(seconds["sweep"], seconds["alone"], strict=True)]
        ratios[name] = medians["sweep"] / medians["alone"]
        print(
            f"  {name:6s} a trial alone {medians['alone']:7.3f} s, in a sweep {medians['sweep']:7.3f} s: "
            f"{statistics.median(extra):+.3f} s ({min(extra):+.3f} to {max(extra):+.3f}), ratio {ratios[name]:.3f}"
        )
        if "command" in medians:
            print(f"  score-sde sweep starts and ends in {TRIALS * (medians['command'] - medians['sweep']):.2f} s")
    return ratios


def described(train: list[str]) -> dict[str, Any]:
    """The sweep, as get_sweep() would return it."""
    return {
        "config": "configs/density2d.py",
        "axes": {"optimizer.learning_rate": [1e-3, 2e-3][:TRIALS]},
        "overrides": {
            "training.num_steps": STEPS,
            "training.checkpoint_every": STEPS,
            "data.train.num_examples": 10_000,
            "data.eval.num_examples": 1_000,
        },
        "metric": "loss",
        "train": train,
    }


def alone(sweep: dict[str, Any], folder: pathlib.Path) -> None:
    """The trials' commands, one after another, as a user would type them."""
    from score_sde.sweeps import Queue, build_sweep
    from score_sde.sweeps.execution import executable

    for trial in Queue(build_sweep(sweep), folder, write=False).trials.values():
        for command in trial.commands:
            subprocess.run(executable(command), capture_output=True, check=True)


def in_sweep(sweep: dict[str, Any], folder: pathlib.Path) -> None:
    """The sweep, one trial at a time, in this process."""
    from score_sde.sweeps import Queue, build_sweep
    from score_sde.sweeps.local import run_local
    from score_sde.sweeps.sharing import share

    built = build_sweep(sweep)
    with (folder.parent / "printed.txt").open("w") as stream:
        run_local(built, Queue(built, folder), folder, share(1, [0], []), stream=stream)


def by_command(sweep: dict[str, Any], folder: pathlib.Path) -> None:
    """The sweep as a user starts it."""
    path = folder.parent / "sweep.py"
    path.write_text(f"def get_sweep():\n    return {sweep!r}\n")
    command = [sys.executable, "-m", "score_sde", "sweep", f"--sweep={path}", f"--workdir={folder}"]
    subprocess.run(command, capture_output=True, check=True)
