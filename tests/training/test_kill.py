"""A run that is killed with SIGKILL and started again leaves the same bytes as one that was not."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
KILLED = -9


class Runs:
    """Trains a task in a folder, in a process that is killed as told; returns the exit status."""

    def __init__(self, task):
        self.task = task
        environment = dict(os.environ, JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")
        self._server = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.training.killed_run"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, workdir, kill=None, **training) -> int:
        job = {"workdir": str(workdir), "task": self.task, "kill": kill, "training": training}
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())

    def close(self):
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()


@pytest.fixture(scope="module", params=["denoising", pytest.param("classification", marks=pytest.mark.slow)])
def runs(request):
    runs = Runs(request.param)
    yield runs
    runs.close()


@pytest.fixture(scope="module")
def whole(runs, tmp_path_factory):
    """A run that was never stopped: log lines each 5 steps, evaluations and pictures at others, and checkpoints at others."""
    workdir = tmp_path_factory.mktemp("whole")
    assert runs(workdir) == 0
    steps = [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert steps == [5, 10, 15, 16, 20, 25, 30, 32, 35, 40, 40]
    pictures = ["12", "24", "36", "40"] if runs.task == "denoising" else []
    assert [path.name[-6:-4] for path in sorted(workdir.glob("samples/*"))] == pictures
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["35", "40"]
    return workdir


def names(workdir):
    """All that a run leaves but for the insides of checkpoints and events, whose names are random or hold the time."""
    paths = {path.relative_to(workdir).as_posix() for path in workdir.rglob("*")}
    return {path for path in paths if not path.startswith(("checkpoints/", "tensorboard/"))}


def check_same(whole, cut):
    """Parameters, averages, optimizer (in state.sha256), metrics, pictures, config; the steps of timing; no litter."""
    assert names(cut) == names(whole)
    for name in sorted(
        names(whole) - {"timing.jsonl", "starts.jsonl", "run.lock", "checkpoints", "tensorboard", "samples"}
    ):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name
    steps = [[json.loads(line)["step"] for line in (w / "timing.jsonl").read_text().splitlines()] for w in (whole, cut)]
    assert steps[0] == steps[1]
    newest = [
        sorted((int(path.name) for path in (w / "checkpoints").iterdir()), reverse=True)[:2] for w in (whole, cut)
    ]
    assert newest[0] == newest[1]


def test_killed_four_times(runs, whole, tmp_path):
    """While it evaluates, while a checkpoint is being written, as one is renamed, and while it cleans up at the end."""
    kills = [
        {"call": "evaluate", "nth": 1, "when": "before"},  # goes on from 14
        {"file": "checkpoints/28.*tmp*/state"},  # from 21
        {"call": "manifest", "nth": 1, "when": "after"},  # from 21 again: 28 has its files, but not its name
        {"call": "close", "nth": 1, "when": "after"},
    ]
    assert [runs(tmp_path, kill) for kill in kills] == [KILLED] * 4
    assert runs(tmp_path) == 0
    check_same(whole, tmp_path)


def moments():
    """Before, after and in the middle of everything that a run does, and at random times."""
    rng = np.random.default_rng(0)
    calls = (
        "lock",
        "write config",
        "drop lines",
        "compile",
        "log",
        "flush",
        "evaluate",
        "draw",
        "save",
        "manifest",
        "wait",
    )
    kills = [{"call": call, "nth": 1, "when": when} for call in calls for when in ("before", "after")]
    kills += [{"call": call, "nth": 1, "when": "half"} for call in ("write config", "drop lines", "draw", "manifest")]
    kills += [{"call": call, "nth": 1, "when": when} for call in ("verify", "restore") for when in ("before", "after")]
    kills += [{"call": "step", "nth": int(nth), "when": "before"} for nth in rng.integers(1, 20, 6)]
    kills += [{"file": "checkpoints/*tmp*", "delay": float(delay)} for delay in rng.uniform(0, 0.03, 6)]
    kills += [{"file": f"checkpoints/{step}", "delay": float(rng.uniform(0, 0.01))} for step in (7, 21, 35, 40)]
    kills += [{"after": float(seconds)} for seconds in rng.uniform(0.05, 3.0, 14)]
    return [kills[i] for i in rng.permutation(len(kills))]


@pytest.mark.slow
@pytest.mark.parametrize("part", range(2))
def test_killed_tens_of_times(runs, whole, tmp_path, part):
    """Half of the moments, one after another; a run that gets to its end is compared, and the next begins elsewhere."""
    killed, finished = 0, 0
    workdir = tmp_path / "0"
    for kill in [*moments()[part::2], None]:
        status = runs(workdir, kill)
        assert status in (0, KILLED), kill
        killed += status == KILLED
        if status == 0:
            check_same(whole, workdir)
            finished += 1
            workdir = tmp_path / str(finished)
    assert killed >= 20 and finished >= 1, (killed, finished)
