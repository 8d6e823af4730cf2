"""Stopping and going on in a run of several processes."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.multiprocess.launch import ROOT, coordinator

FIELDS = {
    "network.width": 16,
    "network.depth": 1,
    "data.train.num_examples": 300,
    "training.batch_size": 32,
    "training.log_every": 10,
    "training.checkpoint_every": 1000,
}


def start(workdir, num_processes, **fields):
    """The entry point in several processes, each with one device; half the parameters on each."""
    fields = FIELDS | {"mesh.fsdp": num_processes} | {name.replace("__", "."): v for name, v in fields.items()}
    command = [sys.executable, "-m", "experiments.train", "--config=configs/density2d.py", f"--workdir={workdir}"]
    command += [f"--config.{name}={value}" for name, value in fields.items()]
    joins = [f"--coordinator_address={coordinator()}", f"--num_processes={num_processes}"] if num_processes > 1 else []

    def process(index):
        own = [*joins, f"--process_id={index}"] if joins else []
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        environment = dict(os.environ, JAX_NUM_CPU_DEVICES="1")
        return subprocess.Popen([*command, *own], cwd=ROOT, env=environment, text=True, **pipes)

    return [process(index) for index in range(num_processes)]


def finish(processes):
    """The output of all, which must end well."""
    ends = [(*process.communicate(timeout=600), process.returncode) for process in processes]
    assert [code for _, _, code in ends] == [0] * len(processes), ends
    return "".join(out for out, _, _ in ends)


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_sigterm_to_one_process_stops_both_at_the_same_step(tmp_path):
    """They exit with 0, and go on as if never stopped: the same lines, bit for bit."""
    processes = start(tmp_path / "cut", 2, training__num_steps=2000)
    while not ((tmp_path / "cut" / "metrics.jsonl").is_file() and lines(tmp_path / "cut")):
        assert processes[0].poll() is None, processes[0].communicate()
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGTERM)
    assert "Stopped by a preemption notice after step" in finish(processes)
    (stopped,) = [int(path.name) for path in (tmp_path / "cut" / "checkpoints").iterdir()]
    assert 10 <= stopped < 2000
    last = stopped + 40
    finish(start(tmp_path / "cut", 2, training__num_steps=last))
    finish(start(tmp_path / "whole", 2, training__num_steps=last))
    assert (tmp_path / "cut" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(tmp_path):
    """The same data in the same order, in any path: the losses differ by the order of sums alone."""
    workdir = tmp_path / "cut [fsdp=2]*"
    finish(start(workdir, 2, training__num_steps=25))
    finish(start(workdir, 1, training__num_steps=50))
    finish(start(tmp_path / "whole", 1, training__num_steps=50))
    cut, whole = lines(workdir), lines(tmp_path / "whole")
    losses = {line["step"]: line["loss"] for line in whole}
    assert [line["step"] for line in cut] == [10, 20, 25, 30, 40, 50]
    for line in cut:
        if line["step"] in losses and line["step"] != 30:  # after 25 has its own line, the line of 30 is of five steps
            np.testing.assert_allclose(line["loss"], losses[line["step"]], rtol=1e-5)
