"""Slurm through submitit, with stand-ins for Slurm's programs that run the job here; JobSets and xpk as text."""

import importlib.util
import os
import re
import shlex
import stat
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest
import yaml

from score_sde.sweeps import Queue, Record, build_sweep
from score_sde.sweeps import slurm as slurm_module
from score_sde.sweeps.reached import main as reached
from score_sde.sweeps.run import Options, run_sweep, show_commands, show_status
from score_sde.sweeps.slurm import run_slurm, script
from score_sde.sweeps.tpu import build_tpu, jobset, run_tpu, xpk_command
from tests.sweeps.several import described, fake_sweep, starts, states, until

SLURM = {"partition": "gpu", "time": 240, "cpus_per_task": 4, "gpus_per_node": 1}
TPU = {
    "docker_image": "example.org/score_sde:1",
    "cluster": "pods",
    "tpu_type": "v5litepod-16",
    "zone": "europe-west4-b",
    "accelerator": "tpu-v5-lite-podslice",
    "topology": "4x4",
    "hosts": 4,
    "num_slices": 2,
    "claim": "runs",
    "mount": "/runs",
    "directory": "/app",
}


HAS_SUBMITIT = importlib.util.find_spec("submitit") is not None

# A program with a log of its own; arguments: a folder, and what to run. The handler of mode "w" never writes again once closed.
LOGS = """
import io, logging, os, pathlib, sys
from absl import flags, logging as absl_logging
import score_sde.sweeps.slurm as slurm

folder, before = pathlib.Path(sys.argv[1]), dict(os.environ)
stream = io.StringIO()
flags.FLAGS.mark_as_parsed()
absl_logging.use_absl_handler()
absl_logging.get_absl_handler().python_handler.stream = stream  # not sys.stderr, as under capsys and in notebooks
logging.root.addHandler(logging.FileHandler(folder / "own.log", mode="w"))
loggers = {name: logging.getLogger(name) for name in ("absl", "orbax", "score_sde")}
handlers = {name: list(logger.handlers) for name, logger in loggers.items()}
states = [(logger.disabled, logger.level, logger.propagate) for logger in loggers.values()]
handled = list(logging._handlerList)

assert slurm._submitit().__name__ == "submitit"

assert dict(os.environ) == before
assert [reference for reference in handled if reference not in logging._handlerList] == []
assert {name: list(logger.handlers) for name, logger in loggers.items()} == handlers
assert [(logger.disabled, logger.level, logger.propagate) for logger in loggers.values()] == states
for name, logger in loggers.items():
    logger.warning("after, from %s", name)
logging.getLogger("submitit").warning("after, from submitit")
logging.getLogger("submitit").info("after, from submitit")
logging.getLogger("submitit").debug("below the level at which submitit speaks")
assert "after, from absl" in stream.getvalue()
assert len((folder / "own.log").read_text().splitlines()) == 5, (folder / "own.log").read_text()
"""


def needs_submitit():
    """Skips a test without it, and does not import it: only score_sde.sweeps.slurm may (see _submitit)."""
    if not HAS_SUBMITIT:
        pytest.skip("needs the extra sweeps")


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A folder of programs before all others on the PATH; `programs(name, text)` writes one."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)

    def write(name, text):
        path = folder / name
        path.write_text(f"#!{sys.executable}\n" + textwrap.dedent(text))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    return write


@pytest.fixture
def slurm(programs, tmp_path):
    """sbatch runs each task of the array at once and waits for it; squeue shows what `active.txt` says."""
    needs_submitit()
    programs(
        "sbatch",
        """
        import os, re, subprocess, sys
        text = open(sys.argv[1]).read()
        array = re.search("--array=0-([0-9]+)", text)
        print("Submitted batch job 71", flush=True)
        if os.fork():
            os._exit(0)
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1), os.dup2(nothing, 2)
        import time; time.sleep(0.5)  # submitit moves the pickles to their names after it has the number
        for index in range(int(array[1]) + 1 if array else 1):
            env = {"SLURM_JOB_ID": str(72 + index), "SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1", "SLURM_NODEID": "0"}
            env |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_NODELIST": "here"}
            env |= {"SLURM_ARRAY_JOB_ID": "71", "SLURM_ARRAY_TASK_ID": str(index)} if array else {"SLURM_JOB_ID": "71"}
            subprocess.run(["bash", sys.argv[1]], env=os.environ | env, stdout=subprocess.DEVNULL)
        """,
    )
    programs(
        "srun",
        """
        import os, sys
        words = sys.argv[1:]
        start = next(i for i, word in enumerate(words) if "python" in word)
        os.execvp(words[start], words[start:])
        """,
    )
    active = tmp_path / "active.txt"
    active.write_text("")
    programs("squeue", f"print(open({str(active)!r}).read(), end='')")
    return active


def test_importing_submitit_leaves_handlers_and_loggers_as_they_were(tmp_path, monkeypatch):
    needs_submitit()
    monkeypatch.delenv("SUBMITIT_LOG_LEVEL", raising=False)
    subprocess.run([sys.executable, "-c", LOGS, str(tmp_path)], check=True)


def wait_for(queue, state):
    until(lambda: states(queue) == [state] * len(queue.trials))


@pytest.mark.slow
def test_an_array_job_runs_all_trials_and_is_not_submitted_twice(slurm, tmp_path):
    sweep, folder = fake_sweep(rates=[1e-3, 1e-2], slurm=SLURM), tmp_path / "sweep"
    slurm.write_text("71_0\n71_1\n99_0\n")  # what Slurm says from now on
    queue = Queue(sweep, folder)
    assert run_slurm(sweep, queue, folder, max_parallel=1) == ["71_0", "71_1"]
    trials = list(queue.trials.values())
    assert [trial.job for trial in trials] == ["71_0", "71_1"]
    assert run_slurm(sweep, Queue(sweep, folder), folder, 1) == []
    wait_for(queue, "finished")
    assert [len(starts(trial)) for trial in trials] == [1, 1]
    text = next((folder / "slurm").glob("*.sh")).read_text()
    for line in (
        "--partition=gpu",
        "--time=240",
        "--cpus-per-task=4",
        "--gpus-per-node=1",
        "--array=0-1%1",
        "--signal=USR2@90",
    ):
        assert f"#SBATCH {line}\n" in text


def test_a_job_that_is_gone_is_submitted_again(slurm, tmp_path):
    sweep, folder = fake_sweep(rates=[1e-3], slurm=SLURM), tmp_path / "sweep"
    queue = Queue(sweep, folder)
    (trial,) = queue.trials.values()
    (trial.folder / "job.txt").write_text("70\n")
    trial.write_record(Record(state="running"))
    assert run_slurm(sweep, queue, folder, None) == ["71"]
    wait_for(queue, "finished")


def test_the_notice_of_preemption_saves_and_requeues(tmp_path):
    needs_submitit()
    from score_sde.sweeps.execution import Execution
    from score_sde.sweeps.slurm import Job

    sweep = fake_sweep(rates=[1e-3], steps=5000, environment={"FAKE_SECONDS": "0.02", "FAKE_LATE": "1"})
    (trial,) = Queue(sweep, tmp_path).trials.values()
    job = Job(trial, sweep.environment, 3)
    job._execution = Execution(trial, sweep.environment)
    until(lambda: trial.step > 2)
    again = job.checkpoint()
    assert type(again).__name__ == "DelayedSubmission" and again.function.trial == trial
    assert trial.record().state == "requeued" and 2 < trial.step < 5000
    again.dump(tmp_path / "job.pkl")  # what is requeued can be pickled


@pytest.mark.slow
def test_submitit_runs_a_trial_here(tmp_path, capsys):
    """Its own local executor, one trial at a time."""
    needs_submitit()
    sweep = fake_sweep(rates=[1e-3, 1e-2], slurm={"cluster": "local"}, environment={"FAKE_FAIL": "0.01"})
    assert not run_sweep(sweep, tmp_path, Options(launcher="slurm", max_parallel=1, check=False))
    printed = capsys.readouterr().out
    assert "2 jobs started" in printed and "failed: exit code 3: Error: the learning rate is cursed." in printed
    assert states(Queue(sweep, tmp_path, write=False)) == ["finished", "failed"]
    first, second = (trial.folder / "starts.jsonl" for trial in Queue(sweep, tmp_path, write=False).trials.values())
    assert second.stat().st_mtime > first.with_name("record.json").stat().st_mtime


def test_a_dry_run_prints_the_script(tmp_path, capsys):
    needs_submitit()
    sweep = fake_sweep(slurm=SLURM)
    show_commands(sweep, tmp_path, Options(launcher="slurm", max_parallel=2, check=False))
    printed = capsys.readouterr().out
    text = printed[printed.index("#!/bin/bash") :]
    assert "#SBATCH --array=0-2%2\n" in text and "submitit.core._submit" in text
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    with pytest.raises(
        ValueError, match=r"The field `slurm` of a sweep has \['partitions'\], which submitit does not know"
    ):
        script(fake_sweep(slurm={"partitions": "gpu"}), tmp_path, 1, None)


def test_without_slurm_or_submitit(tmp_path, monkeypatch):
    sweep = fake_sweep()
    queue = Queue(sweep, tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    if HAS_SUBMITIT:
        with pytest.raises(ValueError, match="needs sbatch and srun on the PATH"):
            run_slurm(sweep, queue, tmp_path, None)
    with pytest.raises(ValueError, match="slurm.cluster needs one of"):
        run_slurm(fake_sweep(slurm={"cluster": "pbs"}), queue, tmp_path, None)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ValueError, match=r"needs submitit; install the extra: pip install 'score_sde\[sweeps\]'"):
        run_slurm(sweep, queue, tmp_path, None)
    with pytest.raises(ValueError, match="--launcher=xpk needs xpk on the PATH; install it, or look at --dry_run"):
        run_tpu(sweep, queue, tmp_path, "xpk")


def a_tpu_trial(tmp_path, **fields):
    then = ["python -m experiments.likelihood --workdir={workdir}"]
    axes = {"sde": [{"name": "ve", "sigma_min": 0.01, "sigma_max": 50.0}]}
    sweep = build_sweep(described(axes=axes, train="python -m experiments.train", then=then, tpu={**TPU, **fields}))
    folder = tmp_path / "Digits_SDEs"
    (trial,) = Queue(sweep, folder).trials.values()
    return sweep, folder, trial


def test_a_jobset_is_valid_and_runs_the_trial(tmp_path, capsys):
    """Against the rules of the API: names, the fields that JobSet, Job and Pod need, and what kubectl would read."""
    sweep, folder, trial = a_tpu_trial(tmp_path)
    show_commands(sweep, folder, Options(launcher="jobset", check=False))
    printed = capsys.readouterr().out
    made = yaml.safe_load(printed[printed.index("---") : printed.index("# 1 trials")])
    assert made == jobset(sweep, folder, trial) and (made["apiVersion"], made["kind"]) == (
        "jobset.x-k8s.io/v1alpha2",
        "JobSet",
    )
    name, (part,) = made["metadata"]["name"], made["spec"]["replicatedJobs"]
    # pods are NAME-slice-INDEX-INDEX-xxxxx, and their hostnames may have 63 letters
    assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name) and len(f"{name}-slice-99-99-abcde") <= 63
    job = part["template"]["spec"]
    assert part["replicas"] == 2 and job["parallelism"] == job["completions"] == 4 and job["backoffLimit"] == 0
    assert made["spec"]["failurePolicy"]["maxRestarts"] == 3
    codes = job["podFailurePolicy"]["rules"][0]["onExitCodes"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["restartPolicy"] == "Never" and codes["containerName"] == container["name"] and 0 not in codes["values"]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert container["volumeMounts"][0]["name"] == pod["volumes"][0]["name"]
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "4x4"
    lines = [line for line in container["command"][2].splitlines() if line.startswith(("cd ", "run "))]
    assert [shlex.split(line) for line in lines] == [
        ["cd", "/app", "||", "exit"],
        ["run", *trial.commands[0]],
        ["run", "python", "-m", "score_sde.sweeps.reached", str(trial.folder), "4"],
        ["run", *trial.commands[1]],
        ["run", "touch", str(trial.marker)],
    ]


@pytest.mark.few(1)
@pytest.mark.parametrize("late", [False, True])
def test_the_shell_of_a_pod_passes_the_notice_on(tmp_path, late):
    """Whether training dies of SIGTERM or saves and ends well, the pod exits as pre-empted; the second start finishes."""
    environment = {"FAKE_SECONDS": "0.05", **({"FAKE_LATE": "1"} if late else {})}
    fields = described(rates=[1e-3], steps=2000, environment=environment, tpu={**TPU, "directory": "."})
    then = [f"{sys.executable} -c \"open('{{workdir}}/after','a').write('1')\""]
    sweep = build_sweep({**fields, "then": then})
    (trial,) = Queue(sweep, tmp_path).trials.values()
    text = jobset(sweep, tmp_path, trial)["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    text = text["containers"][0]["command"][2].replace("run python ", f"run {sys.executable} ")
    process = subprocess.Popen(["bash", "-c", text])
    until(lambda: trial.step > 2)
    process.terminate()
    assert process.wait(300) == 143 and trial.step < 2000 and not (trial.folder / "after").exists()
    for moment in ("*@*", "task=*"):  # told while it starts
        told = f"set -T\ntrap 'case $BASH_COMMAND in {moment}) kill -TERM $$; esac' DEBUG\n{text}"
        assert subprocess.run(["bash", "-c", told], check=False).returncode == 143 and trial.step < 2000
    assert (
        subprocess.run(["bash", "-c", text.replace("FAKE_SECONDS=0.05", "FAKE_SECONDS=0")], check=False).returncode == 0
    )
    assert (
        trial.step == 2000
        and trial.marker.exists()
        and (trial.folder / "after").read_text() == "1"
        and starts(trial)[1]["step"] >= 2
    )


def test_training_that_ended_too_early_looks_preempted(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 7, "loss": 1.0}\n')
    assert reached(str(tmp_path), "7") == 0 and reached(str(tmp_path), "8") == 143


def test_xpk_is_called_once_a_trial(programs, tmp_path, capsys):
    sweep, folder, trial = a_tpu_trial(tmp_path)
    command = xpk_command(sweep, folder, trial)
    assert command[:3] == ["xpk", "workload", "create"]
    options = dict(word.removeprefix("--").split("=", 1) for word in command[3:])
    assert (
        options["workload"].startswith("digits-sdes-")
        and options["tpu-type"] == "v5litepod-16"
        and options["num-slices"] == "2"
    )
    assert "\nrun python -m experiments.train --config=configs/density2d.py " in options["command"]
    programs(
        "xpk",
        f"""
        import sys
        log = open({str(tmp_path / "calls")!r}, "a+"); log.seek(0)
        if log.read(): sys.exit("workload exists already")
        log.write(repr(sys.argv))
        """,
    )
    made, refused = run_tpu(sweep, Queue(sweep, folder), folder, "xpk")
    assert made == [options["workload"]] == [trial.job] and not refused and trial.record().state == "queued"
    assert run_tpu(sweep, Queue(sweep, folder), folder, "xpk")[1] == [f"{made[0]}: ['workload exists already']"]
    (trial.folder / "metrics.jsonl").write_text('{"step": 4, "loss": 1.0}\n')
    assert show_status(sweep, folder)[0].state == "running"  # a pod writes no record; `then` is still to come
    trial.marker.touch()
    assert show_status(sweep, folder)[0].state == "finished" and Queue(sweep, folder).next() is None


def test_fields_of_tpu_that_are_missing_or_unknown():
    with pytest.raises(
        ValueError, match=r"missing \['docker_image', 'cluster'\], unknown \['topologie'\].*Did you mean 'topology'"
    ):
        build_tpu(fake_sweep(tpu={"topologie": "4x4"}), ["cluster"])


def test_an_adaptive_search_on_slurm_asks_for_what_may_run(tmp_path, monkeypatch):
    """Two at once of three: two, then none while they run, then the third; the results reach the journal."""
    pytest.importorskip("optuna", reason="needs the extra sweeps")
    active: set[str] = set()

    def submit(executor, trials, sweep):
        for trial in trials:
            (trial.folder / "job.txt").write_text(trial.name)
            trial.write_record(Record(state="queued"))
            active.add(trial.name)
        return [SimpleNamespace(job_id=trial.name) for trial in trials]

    monkeypatch.setattr(slurm_module, "_executor", lambda *_: (None, "slurm"))
    monkeypatch.setattr(slurm_module, "_submit", submit)
    monkeypatch.setattr(slurm_module, "active_jobs", lambda: set(active))
    sweep = fake_sweep(search={"name": "optuna", "num_trials": 3}, rates=[1e-5, 1e-4, 1e-3, 1e-2, 1e-1])
    first = run_slurm(sweep, Queue(sweep, tmp_path), tmp_path, 2)
    assert len(first) == 2 and run_slurm(sweep, Queue(sweep, tmp_path), tmp_path, 2) == []
    for name, trial in Queue(sweep, tmp_path, write=False).trials.items():
        (trial.folder / "metrics.jsonl").write_text('{"step": 4, "loss": 1.0}\n')
        trial.write_record(Record(state="finished", done=tuple(map(shlex.join, trial.commands))))
        active.remove(name)
    queue = Queue(sweep, tmp_path)
    assert len(run_slurm(sweep, queue, tmp_path, 2)) == 1 and len(queue.trials) == 3
    assert sorted(trial.state.name for trial in queue.plan._study.get_trials())[:2] == ["COMPLETE"] * 2
