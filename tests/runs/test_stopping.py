"""A stopped command says what it keeps, ends as a stopped training does, and continues when it is called again."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from experiments.results import run_evaluation, run_likelihood, run_sampling
from score_sde.evaluation.references import make_reference
from score_sde.evaluation.request import Evaluation
from score_sde.metrics.features import Extractor, get_extractor
from score_sde.run_config import from_workdir
from score_sde.runs.sampling import stream_samples
from score_sde.trained import restored
from score_sde.training.stopping import AGAIN, EXIT, Stopped, closing_line, exit_status, interruptible, kept
from tests.evaluation.evaluated import points, save


@pytest.fixture(autouse=True)
def hears_ctrl_c():
    """The handler of SIGINT that Python starts with, which a test run in the background does not have."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")])
def test_the_first_signal_stops_and_a_second_interrupts_at_once(monkeypatch, number, name):
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    inner, outer = kept("more exactly: two of three are saved."), kept("two are saved.")
    with interruptible(), pytest.raises(Stopped, match=name) as stop, outer, inner:
        signal.raise_signal(number)
    assert closing_line(stop.value) == f"Stopped by {name}; more exactly: two of three are saved."
    assert exit_status(stop.value) == 0 and [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers
    monkeypatch.setenv(EXIT, "143")  # in a sweep, where 0 says that the command has done its work
    assert exit_status(stop.value) == 143
    with interruptible():
        with pytest.raises(Stopped):
            signal.raise_signal(number)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        with pytest.raises(KeyboardInterrupt) as again:
            signal.raise_signal(signal.SIGINT)
    assert closing_line(again.value) == f"Stopped by Ctrl-C; {AGAIN}" and exit_status(again.value) == 130


def test_what_the_parent_ignores_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interruptible():
        signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopped")
    save(points(), folder)
    return folder


def evaluate(experiment, workdir):
    evaluation = Evaluation(("fid",), num_samples=48, batch_size=16, features="pixels")
    return run_evaluation(restored(experiment, workdir), evaluation, quiet=True)["results"]["fd"]


def reference(experiment, workdir):
    pixels = get_extractor("pixels", experiment.mesh)
    made = make_reference(experiment, "train", pixels, workdir / "made.npz", batch_size=256, quiet=True)
    return made.statistics["pool"].mean.tolist()


COMMANDS = {
    "evaluate": (evaluate, "batch", r"1 of 3 parts \(evaluate\) are saved in .*evaluations"),
    "sample": (
        lambda experiment, workdir: run_sampling(restored(experiment, workdir), 48, 16).x.tolist(),
        "batch",
        r"samples are written at the end, and none is saved\. With --format they are",
    ),
    "sample --format": (
        lambda experiment, workdir: len(
            list(stream_samples(restored(experiment, workdir), 48, 16, quiet=True).iterdir())
        ),
        "batch",
        r"1 of 3 parts \(sample\) are saved in .*samples",
    ),
    "likelihood": (
        lambda experiment, workdir: run_likelihood(restored(experiment, workdir), 48).per_example.tolist(),
        "log_prob",
        r"1 of 3 parts \(likelihood\) are saved in .*likelihood",
    ),
    "reference": (reference, "extractor", r"1 of 2 parts \(features of train\) are saved in .*made\.npz\.parts"),
}


@pytest.mark.few(2)
@pytest.mark.parametrize("command", COMMANDS)
def test_stopped_in_its_second_part(command, workdir, monkeypatch, capsys):
    """Nothing of what is kept is computed again; the result is the one of a call that nothing stopped."""
    call, place, message = COMMANDS[command]
    experiment, calls = from_workdir(workdir, ["mesh.num_devices=1", "likelihood.batch_size=16"]), []

    def stopping(function):
        def counted(*arguments, **options):
            calls.append(None)
            if len(calls) == 2:
                signal.raise_signal(signal.SIGTERM)
            return function(*arguments, **options)

        return counted

    with monkeypatch.context() as patched:
        if place == "batch":
            generator = type(experiment.generator)
            patched.setattr(generator, "batch", stopping(generator.batch))
        elif place == "log_prob":
            likelihood = type(experiment.log_prob)
            patched.setattr(likelihood, "__call__", stopping(likelihood.__call__))
        else:
            patched.setattr(Extractor, "__call__", stopping(Extractor.__call__))
        with interruptible(), pytest.raises(Stopped) as stop:
            call(experiment, workdir)
    assert re.match(f"Stopped by SIGTERM; {message}", closing_line(stop.value))
    assert call(experiment, workdir) == call(experiment, workdir)


def test_a_stopped_process_exits_as_training_does(workdir):
    """`evaluate` as a process: status 0, and its last line says how to go on."""
    words = ["--metrics=fid", "--num_samples=4096", "--batch_size=16", "--features=pixels", "--set=mesh.num_devices=1"]
    command = [sys.executable, "-m", "experiments.evaluate", f"--workdir={workdir}", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    while process.poll() is None and not list((workdir / "evaluations").glob("*/part_*1024.npz")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert said.splitlines()[-1].startswith("Stopped by Ctrl-C; ") and "of 256 parts (evaluate) are saved in" in said
    assert "Traceback" not in errors
