"""The launch files: they are rendered, checked against the rules of their systems, and run with stand-ins for these."""

import importlib.util
import os
import pathlib
import shlex
import stat
import subprocess
import sys

import pytest
import yaml

from score_sde.parallel import Processes, find_processes
from tests.multiprocess.launch import ROOT, config_flags

LAUNCH = ROOT / "launch"
NAP = "for i in {1..6000}; do sleep 0.1; done"  # a stand-in's work: unlike "sleep 60 &" it leaves nothing behind
GPU = {
    "NAME": "vp",
    "IMAGE": "registry/score_sde:1",
    "NODES": "4",
    "GPUS": "8",
    "CLAIM": "runs",
    "FLAGS": "--workdir=/runs/vp",
}
TPU = {
    **{name: GPU[name] for name in ("NAME", "IMAGE", "CLAIM", "FLAGS")},
    "ACCELERATOR": "tpu-v5-lite-podslice",
    "TOPOLOGY": "4x4",
    "SLICES": "2",
    "MACHINES": "4",
    "CHIPS": "4",
}


def rendering():
    spec = importlib.util.spec_from_file_location("render", LAUNCH / "render.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def jobset(name, fields):
    (document,) = yaml.safe_load_all(rendering().render((LAUNCH / name).read_text(), fields))
    return document


@pytest.mark.parametrize("name", ["tpu_pod.sh", "slurm.sbatch"])
def test_scripts_are_bash(name):
    subprocess.run(["bash", "-n", str(LAUNCH / name)], check=True)


@pytest.mark.parametrize(("name", "fields", "count"), [("jobset_gpu.yaml", GPU, 4), ("jobset_tpu.yaml", TPU, 4)])
def test_jobsets_have_what_jobset_requires(name, fields, count):
    """Indexed jobs whose pods run together and are never restarted one by one; a failed pod restarts the set."""
    document = jobset(name, fields)
    assert (document["apiVersion"], document["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert document["metadata"]["name"] == "vp" and document["spec"]["failurePolicy"]["maxRestarts"] > 0
    (job,) = document["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    assert job["replicas"] == (1 if fields is GPU else 2)
    assert spec["completionMode"] == "Indexed" and spec["parallelism"] == spec["completions"] == count
    assert spec["backoffLimit"] == 0 and spec["template"]["spec"]["restartPolicy"] == "Never"
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == "registry/score_sde:1" and container["command"][:2] == ["bash", "-c"]
    device = "nvidia.com/gpu" if fields is GPU else "google.com/tpu"
    assert container["resources"]["limits"] == container["resources"]["requests"] == {device: 8 if fields is GPU else 4}
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert all(
        set(entry) == {"name", "value"} and isinstance(entry["value"], str) for entry in container.get("env", [])
    )
    subprocess.run(["bash", "-n", "-c", container["command"][2]], check=True)


def test_pods_of_a_jobset_find_each_other():
    """The first pod of the job "workers" is NAME-workers-0-0 in the subdomain NAME, JobSet's defaults."""
    (job,) = jobset("jobset_gpu.yaml", GPU)["spec"]["replicatedJobs"]
    (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
    environment = {entry["name"]: entry["value"] for entry in container["env"]} | {"JOB_COMPLETION_INDEX": "3"}
    assert job["name"] == "workers"
    assert find_processes(environment=environment) == Processes("vp-workers-0-0.vp:8476", 4, 3)


def test_a_pod_told_to_stop_fails_and_one_that_ends_does_not(tmp_path):
    """Its command with a stand-in for python, which like training ends well on SIGTERM."""
    (job,) = jobset("jobset_gpu.yaml", GPU)["spec"]["replicatedJobs"]
    script = job["template"]["spec"]["template"]["spec"]["containers"][0]["command"][2]
    program(tmp_path / "python", f'trap "exit 0" TERM; echo started; [ -z "$LONG" ] || {NAP}')
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert subprocess.run(["bash", "-c", script], env=environment | {"LONG": ""}, check=False).returncode == 0
    command = ["bash", "-c", script]
    pod = subprocess.Popen(command, env=environment | {"LONG": "1"}, stdout=subprocess.PIPE, text=True)
    assert pod.stdout.readline() == "started\n"
    pod.terminate()
    assert pod.wait(timeout=300) == 143
    for moment in ("python*", "task=*"):  # told while it starts its task
        told = f"trap 'case $BASH_COMMAND in {moment}) kill -TERM $$; esac' DEBUG\n{script}"
        run = subprocess.run(["bash", "-c", told], env=environment | {"LONG": "1"}, check=False, timeout=300)
        assert run.returncode == 143


def program(path: pathlib.Path, script: str) -> None:
    path.write_text(f"#!/usr/bin/env bash\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def tpu_pod(tmp_path, *arguments, **environment):
    """What the script would have gcloud do: its arguments, and what each worker runs."""
    program(tmp_path / "gcloud", 'printf "%s\\n" "$@"')
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", **environment}
    run = subprocess.run(
        [str(LAUNCH / "tpu_pod.sh"), *arguments], env=environment, capture_output=True, text=True, check=False
    )
    return run, run.stdout.splitlines()


def test_one_command_starts_every_worker_of_a_pod(tmp_path):
    run, words = tpu_pod(tmp_path, "train", "--workdir=/mnt/a b", NAME="pod", ZONE="z", PROJECT="p")
    assert run.returncode == 0
    assert words[:5] == ["compute", "tpus", "tpu-vm", "ssh", "pod"]
    assert {"--zone=z", "--project=p", "--worker=all"} < set(words)
    command = words[-1].removeprefix("--command=")
    assert shlex.split(command.split("&& ")[1]) == [
        ".venv/bin/python",
        "-m",
        "score_sde",
        "train",
        "--workdir=/mnt/a b",
    ]


def test_setup_of_a_pod_and_its_errors(tmp_path):
    run, words = tpu_pod(tmp_path, "setup", NAME="pod", ZONE="z", REPO="https://example.org/r.git")
    assert run.returncode == 0 and "git clone https://example.org/r.git score_sde" in words[-1]
    assert "make env EXTRAS=dev,tpu" in words[-1]
    subprocess.run(["bash", "-n", "-c", words[-1].removeprefix("--command=")], check=True)
    for arguments, environment, message in (
        (["train"], {"ZONE": "z"}, "set NAME"),
        (["fly"], {"NAME": "n", "ZONE": "z"}, "needs setup, train, sample, evaluate or likelihood, got fly"),
        (["setup"], {"NAME": "n", "ZONE": "z"}, "set REPO"),
    ):
        run, _ = tpu_pod(tmp_path, *arguments, **environment)
        assert run.returncode != 0 and message in run.stderr


def test_a_field_that_is_missing_or_unknown():
    render = rendering()
    with pytest.raises(ValueError, match=r"needs NAME=VALUE for .*missing \['IMAGE'\], unknown \['IMAG'\]"):
        render.render("${NAME} ${IMAGE} $$x", {"NAME": "a", "IMAG": "b"})
    command = [sys.executable, str(LAUNCH / "render.py"), str(LAUNCH / "jobset_gpu.yaml"), "NAME=a"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 1 and "missing ['CLAIM'" in run.stderr
    with pytest.raises(SystemExit, match="Usage: python launch/render.py"):
        render.main(["x.yaml", "NAME"])


SRUN = """
shift  # --kill-on-bad-exit
for task in 0 1; do
  SLURM_STEP_NODELIST=localhost SLURM_NTASKS=2 SLURM_PROCID=$task SLURM_LOCALID=$task "$@" & tasks="$tasks $!"
done
for task in $tasks; do wait $task || exit; done
"""


@pytest.mark.slow
def test_a_slurm_job_trains_in_two_tasks(tmp_path):
    """The script itself, with a stand-in for srun that sets what Slurm sets; the processes find each other."""
    program(tmp_path / "srun", SRUN)
    fields = {"network.width": 16, "network.depth": 1, "data.train.num_examples": 64, "data.eval.num_examples": 64}
    training = {"batch_size": 8, "num_steps": 4, "log_every": 1, "checkpoint_every": 4}
    flags = config_flags(fields | {f"training.{name}": value for name, value in training.items()})
    command = [
        "bash",
        str(LAUNCH / "slurm.sbatch"),
        "--config=configs/density2d.py",
        f"--workdir={tmp_path / 'run'}",
        *flags,
    ]
    environment = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHON": sys.executable,
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_SUBMIT_DIR": str(ROOT),
        "JAX_NUM_CPU_DEVICES": "1",
    }
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert run.returncode == 0, run.stderr[-3000:]
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 4
    assert "is connected to 1 peer ranks" in run.stderr + run.stdout


def test_a_slurm_job_saves_and_is_queued_again_when_its_time_is_over(tmp_path):
    """USR1 to the batch script; TERM to the tasks, which end well; then scontrol requeue."""
    program(tmp_path / "srun", f'echo $$ > {tmp_path}/task; trap "exit 0" TERM; echo started; {NAP}')
    program(tmp_path / "scancel", f'echo "$@" > {tmp_path}/cancelled; kill -TERM $(cat {tmp_path}/task)')
    program(tmp_path / "scontrol", f'echo "$@" > {tmp_path}/control')
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "12"}
    command = ["bash", str(LAUNCH / "slurm.sbatch")]
    job = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert job.stdout.readline() == "started\n"
    job.send_signal(10)
    job.wait(timeout=300)
    assert (tmp_path / "cancelled").read_text() == "--signal=TERM 12.0\n"
    assert (tmp_path / "control").read_text() == "requeue 12\n"
