"""Joining the other processes of a run.

They are found automatically on Slurm, TPU pods and Open MPI. Elsewhere, flags or the environment
name them.
"""

import glob
import importlib.util
import os
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import NamedTuple

import jax
from jax.experimental import multihost_utils

MODES = ("auto", "on", "off")
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")  # set by srun for each task
_TPU_HOSTS = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")  # set by GKE, and by hosts with a single TPU machine
_METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/worker-network-endpoints"


class Processes(NamedTuple):
    """The processes of a run: the address "host:port" of process 0, their number, and the index of this process.

    A field is None where JAX finds it by itself, on Slurm, TPU pods and Open MPI.
    """

    coordinator_address: str | None = None
    num_processes: int | None = None
    process_id: int | None = None

    @property
    def number_here(self) -> int:
        """The number of processes on this machine, as far as the address tells.

        With a local address it is all processes. Otherwise it is this process alone.
        """
        host = (self.coordinator_address or "").rpartition(":")[0]
        return self.num_processes or 1 if host in ("localhost", "127.0.0.1", "[::1]") else 1


def find_processes(
    mode: str = "auto",
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Processes | None:
    """The processes to join, or None for a run of one process.

    Arguments take precedence over JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.
    The last may also be JOB_COMPLETION_INDEX, which Kubernetes gives the pods of an indexed job.
    These variables take precedence over a cluster. "auto" joins only where there is more than one
    process. "on" always lets JAX look for a cluster.

    Raises: ValueError for another mode, for "off" with an address, or where something is missing or
      wrong.
    """
    if mode not in MODES:
        raise ValueError(f"--distributed needs one of {MODES}, got {mode!r}.")
    given = (coordinator_address, num_processes, process_id)
    if mode == "off":
        if any(value is not None for value in given):
            raise ValueError("--distributed=off needs no --coordinator_address, --num_processes or --process_id.")
        return None
    if any(value is not None for value in given) or "JAX_COORDINATOR_ADDRESS" in environment:
        told = _told(Processes(*given), environment)
        return None if mode == "auto" and told.num_processes == 1 else told
    return Processes() if mode == "on" or _in_cluster(environment) else None


def _told(given: Processes, environment: Mapping[str, str]) -> Processes:
    """Takes missing flags from the environment. Raises ValueError for what is missing or out of range."""

    def number(*names: str) -> int | None:
        return next((int(environment[name]) for name in names if environment.get(name, "").isdigit()), None)

    address, count, index = given
    address = environment.get("JAX_COORDINATOR_ADDRESS") if address is None else address
    count = number("JAX_NUM_PROCESSES", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS") if count is None else count
    index = number("JAX_PROCESS_ID", "JOB_COMPLETION_INDEX", "SLURM_PROCID") if index is None else index
    told = Processes(address, count, index)
    if address is None or count is None or index is None:
        missing = [f"--{name}" for name, value in told._asdict().items() if value is None]
        raise ValueError(
            f"A run of several processes needs --coordinator_address=HOST:PORT, --num_processes and --process_id (or "
            f"JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID); {', '.join(missing)} is missing. Give all "
            "three, or none on Slurm and TPU pods."
        )
    if not 0 <= index < count:
        raise ValueError(f"--process_id needs 0 <= process_id < num_processes, got {index} of {count}.")
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"--coordinator_address needs HOST:PORT of process 0, such as 10.0.0.2:8476, got {address!r}.")
    return told


def _in_cluster(environment: Mapping[str, str]) -> bool:
    """Whether a cluster that JAX knows runs this process as one of several."""
    if all(name in environment for name in _SLURM):
        return int(environment.get("SLURM_STEP_NUM_TASKS", environment.get("SLURM_NTASKS", "1"))) > 1
    if int(environment.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        return True
    return _tpu_hosts(environment) > 1


def _tpu_hosts(environment: Mapping[str, str]) -> int:
    """The number of machines of this TPU pod slice; 1 where there is no TPU."""
    if "tpu" not in environment.get("JAX_PLATFORMS", "tpu") or importlib.util.find_spec("libtpu") is None:
        return 1
    if int(environment.get("MEGASCALE_NUM_SLICES") or 1) > 1:
        return int(environment["MEGASCALE_NUM_SLICES"])
    for name in _TPU_HOSTS:
        if name in environment:
            return len(environment[name].split(","))
    if "TPU_SKIP_MDS_QUERY" in environment or not (glob.glob("/dev/accel*") or glob.glob("/dev/vfio/*")):
        return 1
    return _tpu_hosts_of_metadata()


def _tpu_hosts_of_metadata() -> int:
    """The number of machines in the metadata of a Compute Engine TPU VM; 1 where there is no metadata."""
    request = urllib.request.Request(_METADATA, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=3) as reply:
            return len(reply.read().decode().split(","))
    except (urllib.error.URLError, TimeoutError):
        return 1


def initialize_distributed(processes: Processes, timeout_s: int = 300) -> None:
    """Joins the other processes. Call it in each process, before anything else uses JAX's devices.

    CPU devices of several processes communicate through gloo. If the processes do not all meet
    within `timeout_s`, this process says so and ends with status 1. JAX would abort it with a trace
    of C++, which Python cannot catch.

    Raises: ConnectionError when no cluster is found.
    Source: jax.distributed.initialize.
    """
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # Even with all fields given, JAX looks for the GPU of a Slurm task. On Kubernetes it would only warn
    # that it cannot.
    told = processes.coordinator_address is not None and "KUBERNETES_SERVICE_HOST" in os.environ
    method = "deactivate" if told else None
    timer = threading.Timer(timeout_s, _give_up, (processes, timeout_s))
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(*processes, initialization_timeout=timeout_s + 30, cluster_detection_method=method)
    except (RuntimeError, ValueError) as error:
        raise ConnectionError(
            f"--distributed could not join a cluster ({error}). Give --coordinator_address=HOST:PORT, --num_processes and "
            "--process_id, or --distributed=off for a run of one process."
        ) from error
    finally:
        timer.cancel()
    if jax.default_backend() == "cpu":
        # gloo gives up on the first meeting of a group of devices after 30 s. Only process 0 would find its programs in the
        # cache, and be there before the others have compiled theirs.
        jax.config.update("jax_enable_compilation_cache", False)
        meet("start")


def meet(name: str) -> None:
    """Waits until all processes are here, for example after a long compilation. Does nothing for one process."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def _give_up(processes: Processes, timeout_s: int) -> None:
    """Prints the error, and ends the process even while another thread waits in C++."""
    which = "This process" if processes.process_id is None else f"Process {processes.process_id}"
    number, address = processes.num_processes or "several", processes.coordinator_address or "the address of process 0"
    sys.stderr.write(
        f"Error: {which} of {number} did not meet the others at {address} within {timeout_s} s. Start all processes with the "
        "same --coordinator_address, the machine and a free port of process 0, and let the network pass it; "
        "--coordinator_timeout waits longer.\n"
    )
    sys.stderr.flush()
    os._exit(1)


def end_failed_process(text: str) -> None:
    """Writes `text` and ends this process at once with status 1. Does nothing if it is the only process.

    At exit, JAX waits for the other processes, and they wait for this process, in a collective, for
    minutes. When this process ends, their connection is cut, and they end too.
    """
    if jax.distributed.is_initialized() and jax.process_count() > 1:
        sys.stderr.write(f"{text.rstrip()}\n")
        sys.stderr.flush()
        os._exit(1)
