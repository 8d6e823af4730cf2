"""Runs a sweep on TPU pods: each trial is a JobSet on GKE, made by xpk or by kubectl.

A preempted trial is restarted. The workdir must be the same path here and in the pods (a mounted
bucket or file store). The cluster does not accept a second job with an existing name. So a second
call starts only the trials that are neither finished nor on the cluster.

Source: JobSet API, jobset.x-k8s.io/v1alpha2; xpk workload create.
"""

import dataclasses
import pathlib
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from score_sde.config import closest
from score_sde.sweeps.pending import Queue
from score_sde.sweeps.spec import Sweep
from score_sde.sweeps.trial import JOB, Record, Trial

PREEMPTED = (137, 143)
# A shell does not pass SIGTERM on to its command. And a command that saved and ended with success when it
# was told to stop must still be started again.
FORWARD = """\
stopped=''
trap 'stopped=143; kill -TERM "$task" 2>/dev/null' TERM
run() {
  [ -z "$stopped" ] || exit "$stopped"
  "$@" & task=$!
  [ -z "$stopped" ] || kill -TERM "$task" 2>/dev/null
  wait "$task"; status=$?
  while kill -0 "$task" 2>/dev/null; do wait "$task"; status=$?; done
  [ "$status" -eq 0 ] || exit "$status"
}"""


@dataclasses.dataclass(frozen=True)
class Tpu:
    """The resources of a trial: the field `tpu` of a sweep.

    Attributes:
      docker_image: an image with this package.
      cluster, tpu_type, project, zone: as xpk names them ("v5litepod-16").
      accelerator, topology: as GKE names them ("tpu-v5-lite-podslice", "4x4"), for kubectl.
      hosts, chips_per_host: of one slice, for kubectl.
      num_slices: the number of slices of one trial.
      claim, mount: a persistent volume claim and its path in the pods, for kubectl.
      directory: the folder in the image where the commands run.
      flags: more words for `xpk workload create`.
    """

    docker_image: str
    cluster: str = ""
    tpu_type: str = ""
    project: str = ""
    zone: str = ""
    accelerator: str = ""
    topology: str = ""
    hosts: int = 1
    chips_per_host: int = 4
    num_slices: int = 1
    claim: str = ""
    mount: str = ""
    directory: str = "."
    flags: Sequence[str] = ()


def run_tpu(
    sweep: Sweep, queue: Queue, folder: pathlib.Path, launcher: str, max_parallel: int | None = None
) -> tuple[list[str], list[str]]:
    """Starts every open trial.

    Returns the names of the new jobs, and the messages of the cluster about the others. Of an
    adaptive search it starts at most `max_parallel` trials (None: 1), including those that are on
    the cluster already.

    Raises: ValueError without the tool, or for fields of `tpu` that are missing or unknown.
    """
    tool = "xpk" if launcher == "xpk" else "kubectl"
    if shutil.which(tool) is None:
        raise ValueError(f"--launcher={launcher} needs {tool} on the PATH; install it, or look at --dry_run.")
    made: list[str] = []
    refused: list[str] = []
    while not (sweep.search.adaptive and len(made) + len(refused) >= (max_parallel or 1)):
        trial = queue.next()
        if trial is None:
            break
        name, before = job_name(folder, trial), trial.record()
        if launcher == "xpk":
            command = xpk_command(sweep, folder, trial)
        else:
            path = trial.folder / "jobset.yaml"
            path.write_text(jobset_yaml(sweep, folder, trial))
            command = ["kubectl", "create", "-f", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            refused.append(f"{name}: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")
            continue
        (trial.folder / JOB).write_text(name + "\n")
        trial.write_record(Record(state="queued", retries=before.retries + (before.state != "pending")))
        made.append(name)
    return made, refused


def build_tpu(sweep: Sweep, needed: Sequence[str]) -> Tpu:
    """The field `tpu` of a sweep.

    Raises: ValueError for an unknown field, or a missing field that the launcher needs.
    """
    known = [field.name for field in dataclasses.fields(Tpu)]
    unknown = [name for name in sweep.tpu if name not in known]
    missing = [name for name in ("docker_image", *needed) if not sweep.tpu.get(name)]
    if unknown or missing:
        hint = closest(unknown[0], known) if unknown else ""
        raise ValueError(f"The field `tpu` of a sweep has {known}; missing {missing}, unknown {unknown}.{hint}")
    return Tpu(**sweep.tpu)


def job_name(folder: pathlib.Path, trial: Trial) -> str:
    """A DNS label made of the sweep's folder and the trial's digest: "digits-1a2b3c4d"."""
    words = re.sub(r"[^a-z0-9]+", "-", folder.name.lower()).strip("-")[:24] or "sweep"
    prefix = words if words[0].isalpha() else f"s-{words}"
    return f"{prefix}-{trial.name[-8:]}"


def shell(sweep: Sweep, tpu: Tpu, trial: Trial) -> str:
    """The trial's commands for bash. Training that ended before its last step exits as if preempted."""
    setting = [f"{name}={value}" for name, value in sweep.environment.items()]
    train, *then = [[*(["env", *setting] if setting else []), *command] for command in trial.commands]
    reached = ["python", "-m", "score_sde.sweeps.reached", str(trial.folder), str(trial.num_steps)]
    done = ["touch", str(trial.marker)]
    lines = [
        f"cd {shlex.quote(tpu.directory)} || exit",
        *(f"run {shlex.join(c)}" for c in (train, reached, *then, done)),
    ]
    return "\n".join([FORWARD, *lines])


def xpk_command(sweep: Sweep, folder: pathlib.Path, trial: Trial) -> list[str]:
    """`xpk workload create …` for a trial."""
    tpu = build_tpu(sweep, ("cluster", "tpu_type"))
    where = [f"--{name}={getattr(tpu, name)}" for name in ("project", "zone") if getattr(tpu, name)]
    return [
        *("xpk", "workload", "create", f"--cluster={tpu.cluster}", *where),
        f"--workload={job_name(folder, trial)}",
        f"--tpu-type={tpu.tpu_type}",
        f"--num-slices={tpu.num_slices}",
        f"--docker-image={tpu.docker_image}",
        f"--max-restarts={sweep.max_retries}",
        *tpu.flags,
        f"--command={shell(sweep, tpu, trial)}",
    ]


def jobset(sweep: Sweep, folder: pathlib.Path, trial: Trial) -> dict[str, Any]:
    """The JobSet of a trial: one job per slice, one pod per host.

    All pods restart together after a preemption. After an error none restarts.
    """
    tpu = build_tpu(sweep, ("accelerator", "topology"))
    exit_codes = {"containerName": "train", "operator": "NotIn", "values": list(PREEMPTED)}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": job_name(folder, trial),
            "annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"},
        },
        "spec": {
            "failurePolicy": {
                "maxRestarts": sweep.max_retries,
                "rules": [{"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
            },
            "replicatedJobs": [
                {
                    "name": "slice",
                    "replicas": tpu.num_slices,
                    "template": {
                        "spec": {
                            "parallelism": tpu.hosts,
                            "completions": tpu.hosts,
                            "backoffLimit": 0,
                            "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": exit_codes}]},
                            "template": {"spec": _pod(sweep, tpu, trial)},
                        }
                    },
                }
            ],
        },
    }


def jobset_yaml(sweep: Sweep, folder: pathlib.Path, trial: Trial) -> str:
    """The JobSet as YAML for `kubectl create -f`."""
    import yaml

    return yaml.safe_dump(jobset(sweep, folder, trial), sort_keys=False, width=1000)


def _pod(sweep: Sweep, tpu: Tpu, trial: Trial) -> dict[str, Any]:
    container: Mapping[str, Any] = {
        "name": "train",
        "image": tpu.docker_image,
        "command": ["bash", "-c", shell(sweep, tpu, trial)],
        "ports": [{"containerPort": 8471}, {"containerPort": 8080}],
        "resources": {"limits": {"google.com/tpu": tpu.chips_per_host}},
    }
    volume = {"name": "runs", "persistentVolumeClaim": {"claimName": tpu.claim}}
    mount = {"volumeMounts": [{"name": "runs", "mountPath": tpu.mount}]}
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 120,
        "nodeSelector": {
            "cloud.google.com/gke-tpu-accelerator": tpu.accelerator,
            "cloud.google.com/gke-tpu-topology": tpu.topology,
        },
        "containers": [{**container, **(mount if tpu.claim else {})}],
        **({"volumes": [volume]} if tpu.claim else {}),
    }
