"""The mesh, sharding and processes: rules here, the same run on eight virtual devices in a process of its own."""

import json
import os
import pathlib
import platform
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from score_sde import parallel
from score_sde.networks import MLP
from score_sde.parallel import host, mesh, processes
from tests.multiprocess.eight_devices import CLASSIFIED, MEASURED, MESHES

ROOT = pathlib.Path(__file__).parents[2]
SIZES = {"data": 2, "fsdp": 4, "tensor": 2}


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    file = tmp_path_factory.mktemp("eight") / "numbers.json"
    command = [sys.executable, "-m", "tests.multiprocess.eight_devices", str(file)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(file.read_text())


TASKS = {"": MESHES, "classification ": CLASSIFIED}
TRAINED = [(task, name) for task, meshes in TASKS.items() for name in meshes if name != "one"]


@pytest.mark.parametrize(("task", "name"), TRAINED)
def test_eight_devices_train_as_one_does(eight, task, name):
    """The mean loss and every example's, over 20 steps: the order of sums is the only difference."""
    one, many = eight[f"{task}one"], eight[f"{task}{name}"]
    assert len(one["losses"]) == 20
    np.testing.assert_allclose(many["losses"], one["losses"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(many["examples"], one["examples"], rtol=1e-4, atol=1e-5)
    assert many["devices"] == {"data4_parts4": 4, "data2": 2}.get(name, 8) and many["like_the_shapes"]
    assert many["evaluated"] == pytest.approx(one["evaluated"], rel=1e-4, abs=1e-5)
    assert bool(one["evaluated"]) == (task != "")


@pytest.mark.parametrize(("name", "fsdp"), [("data8", 1), ("data4_fsdp2", 2), ("fsdp8", 8)])
def test_fsdp_divides_the_bytes_of_a_device(eight, name, fsdp):
    """Parameters, averages and moments: 1/fsdp of the kernels, which are 97 % of the numbers, and the rest whole."""
    for part in ("params", "ema", "opt_state"):
        assert 1 / fsdp <= eight[name]["share"][part] < 1 / fsdp + 0.035
    np.testing.assert_allclose(eight[name]["bytes"] / eight["one"]["bytes"], eight[name]["share"]["params"], rtol=1e-3)
    assert eight[name]["shards"]["block_0_in"] == [64, 64 // fsdp]


@pytest.mark.parametrize("task", ["", "classification "])
def test_tensor_divides_the_features_inside_a_block(eight, task):
    """Columns of the kernels in, rows of the one out; fsdp takes the other axis, and small arrays are whole."""
    assert eight[f"{task}data2_fsdp2_tensor2"]["shards"] == {
        "input": [2, 64],
        "block_0_in": [32, 32],
        "block_0_embedding": [32, 32],
        "block_0_out": [32, 32],
    }
    assert eight[f"{task}data2_fsdp2_tensor2"]["share"]["params"] < 0.4


@pytest.mark.parametrize("mesh", MEASURED[1:])
def test_measures_do_not_depend_on_the_mesh(eight, mesh):
    """300 examples in batches of 50, samples and bits/dim, with parameters that are divided."""
    one, many = eight["one"], eight[mesh]
    assert one["held_out"] == many["held_out"] == 300
    for name in ("curve", "images"):
        np.testing.assert_allclose(many[name], one[name], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(many["bits"], one["bits"], atol=1e-3)  # steps are chosen by errors near rounding


@pytest.mark.parametrize(("mesh", "divided"), [("data2_fsdp2_tensor2", 2)])
def test_measuring_and_sampling_divide_the_parameters_as_training_does(eight, mesh, divided):
    """No program is given a whole large array, nor does the solver's gather all of them before its loop."""
    for name in ("curve", "images", "bits"):
        whole, programs = eight["one"]["programs"][name], eight[mesh]["programs"][name]
        assert set(whole["parts"]) == {1.0} and len(programs["parts"]) == len(whole["parts"]) >= 4
        assert max(programs["parts"]) <= 1 / divided
    assert eight[mesh]["programs"]["images"]["temporaries"] < 0.5  # of the bytes of the large arrays


def test_the_mesh_shares_the_batch_evenly(eight):
    assert eight["sizes"] == {"1": 1, "7": 1, "12": 3, "16": 4, "30": 6, "32": 8, "64": 8, "128": 8}


def test_the_rule_of_partition():
    """The largest axis that fsdp divides; of equal ones the last; none below 4096 elements."""

    def spec(*shape, tensor_axis=None, **options):
        return parallel.partition(("layer", "kernel"), shape, SIZES, tensor_axis, **options)

    assert spec(3, 3, 64, 128) == PartitionSpec(None, None, None, "fsdp")
    assert spec(3, 3, 128, 64) == PartitionSpec(None, None, "fsdp", None)
    assert spec(64, 64) == PartitionSpec(None, "fsdp")
    assert spec(64, 63) == spec() == spec(4095) == spec(63, 65) == PartitionSpec()
    assert spec(1000, 6) == PartitionSpec("fsdp", None)
    assert spec(64, 64, over_fsdp=False) == PartitionSpec()
    assert spec(64, 64, tensor_axis=lambda path: 1) == PartitionSpec("fsdp", "tensor")
    assert spec(2, 64, tensor_axis=lambda path: 1) == PartitionSpec(None, "tensor")
    assert spec(64, 64, tensor_axis=lambda path: 1, over_fsdp=False) == PartitionSpec(None, "tensor")
    with pytest.raises(ValueError, match=r"mesh.tensor needs to divide axis 1 of layer/kernel.*\(64, 63\), got 2"):
        spec(64, 63, tensor_axis=lambda path: 1)


def test_the_axes_that_the_mlp_declares():
    declared = {(layer, array): MLP.tensor_axis((layer, array)) for layer, array in _arrays_of_mlp()}
    assert {name: axis for name, axis in declared.items() if axis is not None} == {
        ("block_0_in", "kernel"): 1,
        ("block_0_in", "bias"): 0,
        ("block_0_embedding", "kernel"): 1,
        ("block_0_embedding", "bias"): 0,
        ("block_0_out", "kernel"): 0,
    }


def _arrays_of_mlp():
    shapes = jax.eval_shape(MLP(width=8, depth=1).init, jax.random.key(0), jnp.zeros((1, 2)), jnp.zeros(1))
    return [(path[-2].key, path[-1].key) for path, _ in jax.tree_util.tree_flatten_with_path(shapes["params"])[0]]


def test_microbatches_come_back_in_their_order():
    """Rows i, i + k, … are part i, so that consecutive rows, which a device holds, spread over all parts."""
    one = parallel.make_mesh(1)
    rows = {"x": jnp.arange(24.0).reshape(12, 2), "label": jnp.arange(12)}
    parts = jax.jit(lambda tree: parallel.split_microbatches(tree, 3, one))(rows)
    assert parts["x"].shape == (3, 4, 2) and parts["label"][1].tolist() == [1, 4, 7, 10]
    back = jax.jit(lambda tree: parallel.merge_microbatches(tree, one))(parts)
    jax.tree.map(np.testing.assert_array_equal, back, rows)


def devices_of(*process_of_each):
    """Stand-ins for devices, with the process of each."""
    devices = [types.SimpleNamespace(process_index=p, id=i) for i, p in enumerate(process_of_each)]
    return np.array(devices, object)


def test_each_process_loads_the_rows_of_its_devices():
    """Blocks in any order; None where a process's rows are scattered, or where two share some and not all."""
    assert mesh._parts(devices_of(0, 0, 1, 1).reshape(4, 1, 1)) == {0: (0, 2), 1: (1, 2)}
    assert mesh._parts(devices_of(1, 1, 0, 0).reshape(2, 2, 1)) == {1: (0, 2), 0: (1, 2)}
    assert mesh._parts(devices_of(0, 0, 1, 1).reshape(1, 2, 2)) == {0: (0, 2), 1: (1, 2)}
    assert mesh._parts(devices_of(0, 0, 1, 1).reshape(1, 1, 4)) == {0: (0, 1), 1: (0, 1)}
    assert mesh._parts(devices_of(0, 1, 0, 1).reshape(4, 1, 1)) is None
    assert mesh._parts(devices_of(0, 0, 0, 1, 1, 1).reshape(3, 1, 2)) is None


def test_errors_of_a_mesh(monkeypatch):
    one = parallel.make_mesh(1)
    assert dict(one.shape) == {"data": 1, "fsdp": 1, "tensor": 1}
    parallel.check_batch_size(3, one)
    assert parallel.round_up(5, one) == 5 and parallel.batch_part(one) == (0, 1)
    for wrong in ({"num_devices": 0}, {"fsdp": 0}, {"data": 4096}, {"num_devices": 4096}):
        with pytest.raises(ValueError, match="The mesh needs 1 <= num_devices <= "):
            parallel.make_mesh(**wrong)
    with pytest.raises(ValueError, match=r"needs data · fsdp · tensor = 1, its number of devices"):
        parallel.make_mesh(1, fsdp=2)
    with pytest.raises(ValueError, match="accumulation_steps needs to be >= 1 and divide the 6 examples"):
        parallel.check_batch_size(6, one, 4)
    monkeypatch.setattr(jax, "devices", lambda: [*one.devices.flat] * 4)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="A mesh over several processes needs all 4 devices.*which is 2"):
        parallel.make_mesh(2)


SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "n[01-02]",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_NTASKS": "2",
}
TOLD = {"JAX_COORDINATOR_ADDRESS": "job-0.job:8476", "JAX_NUM_PROCESSES": "4"}


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, None),
        (SLURM, processes.Processes()),
        (SLURM | {"SLURM_NTASKS": "1"}, None),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, None),  # srun -n1 in a larger job
        ({k: v for k, v in SLURM.items() if k != "SLURM_STEP_NODELIST"}, None),  # the batch script itself
        ({"OMPI_COMM_WORLD_SIZE": "4"}, processes.Processes()),
        ({"JOB_COMPLETION_INDEX": "2"}, None),  # an indexed job whose pods are not one run
        (TOLD | {"JOB_COMPLETION_INDEX": "2"}, processes.Processes("job-0.job:8476", 4, 2)),
        (TOLD | {"JOB_COMPLETION_INDEX": "2", "JAX_PROCESS_ID": "3"}, processes.Processes("job-0.job:8476", 4, 3)),
        (TOLD | {"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}, None),
        (SLURM | {"JAX_COORDINATOR_ADDRESS": "n01:8476"}, processes.Processes("n01:8476", 2, 1)),
    ],
)
def test_processes_are_found(environment, found):
    assert processes.find_processes(environment=environment) == found
    assert processes.find_processes("off", environment=environment) is None


def test_processes_of_a_tpu_pod(monkeypatch):
    """GKE names the machines; on Compute Engine the metadata does, asked only where there is a TPU."""
    monkeypatch.setattr(processes.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(processes.glob, "glob", lambda pattern: ["/dev/accel0"])
    monkeypatch.setattr(processes, "_tpu_hosts_of_metadata", lambda: 4)
    several = processes.Processes()
    assert processes.find_processes(environment={"TPU_WORKER_HOSTNAMES": "a,b"}) == several
    assert processes.find_processes(environment={"TPU_WORKER_HOSTNAMES": "localhost"}) is None
    assert processes.find_processes(environment={"MEGASCALE_NUM_SLICES": "2"}) == several
    assert processes.find_processes(environment={}) == several
    assert processes.find_processes(environment={"JAX_PLATFORMS": "cpu"}) is None
    assert processes.find_processes(environment={"TPU_SKIP_MDS_QUERY": "1"}) is None
    monkeypatch.setattr(processes.importlib.util, "find_spec", lambda name: None)
    assert processes.find_processes(environment={}) is None


def test_flags_win_over_the_environment():
    told = TOLD | {"JAX_PROCESS_ID": "3"}
    assert processes.find_processes("on", "10.0.0.2:1", 2, 0, told) == processes.Processes("10.0.0.2:1", 2, 0)
    assert processes.find_processes("auto", None, None, 0, told) == processes.Processes("job-0.job:8476", 4, 0)
    assert processes.find_processes("on", environment={}) == processes.Processes()
    assert processes.Processes("localhost:1", 4, 0).number_here == 4
    assert processes.Processes("n01:1", 4, 0).number_here == processes.Processes().number_here == 1


def test_errors_of_processes(monkeypatch):
    find = processes.find_processes
    with pytest.raises(ValueError, match="--distributed needs one of .*got 'yes'"):
        find("yes", environment={})
    with pytest.raises(ValueError, match="--distributed=off needs no --coordinator_address"):
        find("off", "localhost:1", environment={})
    with pytest.raises(ValueError, match="--num_processes, --process_id is missing. Give all three"):
        find("auto", "localhost:1", environment={})
    with pytest.raises(ValueError, match="--coordinator_address is missing"):
        find("auto", None, 2, 0, {})
    with pytest.raises(ValueError, match="0 <= process_id < num_processes, got 2 of 2"):
        find("auto", "localhost:1", 2, 2, {})
    with pytest.raises(ValueError, match="--coordinator_address needs HOST:PORT.*got 'localhost'"):
        find("auto", "localhost", 2, 1, {})
    with pytest.raises(ConnectionError, match="--distributed could not join a cluster.*--distributed=off"):
        parallel.initialize_distributed(processes.Processes())


def test_a_failed_process_of_several_ends_at_once(monkeypatch, capsys):
    """With its message; one that is alone ends as any program does."""
    ended = []
    monkeypatch.setattr(processes.os, "_exit", ended.append)
    parallel.end_failed_process("Error: x")
    assert not ended and not capsys.readouterr().err
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    parallel.end_failed_process("Error: x\n")
    assert ended == [1] and capsys.readouterr().err == "Error: x\n"


def test_cores_are_shared_by_the_processes_of_a_machine(monkeypatch):
    """Not where the user chose; a Slurm task has its own."""
    updates = {}
    monkeypatch.setattr(host, "_backend_started", lambda: False)
    monkeypatch.setattr(host, "enable_compilation_cache", lambda directory: None)
    monkeypatch.setattr(host.os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(host.jax.config, "update", updates.__setitem__)
    for variable in ("SLURM_CPUS_PER_TASK", "JAX_NUM_CPU_DEVICES", "XLA_FLAGS"):
        monkeypatch.delenv(variable, raising=False)
    for environment, processes_here, cores in (
        ({}, 1, 8),
        ({}, 3, 2),
        ({}, 20, 1),
        ({"SLURM_CPUS_PER_TASK": "2"}, 1, 2),
    ):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        host.configure_host(processes_here=processes_here)
        assert updates.pop("jax_num_cpu_devices") == cores
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "5")
    host.configure_host()
    assert not updates


FAULTS = """
import ctypes, resource, sys, threading
from score_sde import parallel

libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype = ctypes.c_void_p
size = int(sys.argv[1])  # of 200 MB in all
parallel.keep_heap_pages(large_buffers=size > 2**26)

def use():
    pointers = [ctypes.c_void_p(libc.malloc(size)) for _ in range(200_000_000 // size)]
    for pointer in pointers:
        libc.memset(pointer, 1, size)
    for pointer in pointers:
        libc.free(pointer)

def step():
    thread = threading.Thread(target=use)
    thread.start()
    thread.join()

step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
@pytest.mark.parametrize("size", [200_000_000, 50_000_000])
def test_the_heap_keeps_its_pages(size):
    """What a thread of XLA's has freed is there for the next step: 50,000 pages that the kernel need not clear again."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))
    }
    command = [sys.executable, "-c", FAULTS, str(size)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert int(run.stdout) < 500


def test_two_devices_share_a_transformer(tmp_path):
    """Half of each kernel of a block lies on each device, and loss and gradient are as on one device."""
    file = tmp_path / "two.json"
    subprocess.run([sys.executable, "-m", "tests.parallel.two_devices", str(file)], check=True, cwd=ROOT)
    found = json.loads(file.read_text(encoding="utf-8"))
    assert found["share"] == 0.5 and found["communicates"]
    np.testing.assert_allclose(*found["losses"], rtol=1e-5)
    assert found["difference"] < 1e-4
