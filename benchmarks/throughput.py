"""Training as a whole: devices and accumulation, the wait for data, the stall of a checkpoint, the time of a resume.

It runs the small U-Net of configs/cifar10/small.py (1.3 M parameters) on CIFAR-10, 32 images a
step. Each number of virtual devices is a separate process. All processes and tasks take turns in
one run, and only ratios within a run have a meaning. Accumulation, data and checkpoints are
measured with one virtual device per core, as users have it.
"""

import os
import sys

DEVICES, PARTS = (1, 2, 4), (1, 2, 4)


def run(rounds: int) -> dict[str, float]:
    """Measures and prints."""
    from benchmarks.interleave import interleave

    workers = [_worker(number) for number in DEVICES]
    steps = [f"step_in_{parts}" for parts in PARTS]
    whole = ["data_wait", "data_step", "checkpoint_stall", "checkpoint_write", "resume"]
    as_users_have_it = f"{min(os.cpu_count() or 1, max(DEVICES))} devices"
    tasks = {w.name: steps + whole if w.name == as_users_have_it else steps[:1] for w in workers}
    timings = interleave(workers, tasks, rounds)
    for worker in workers:
        worker.close()
    medians = {(timing.worker, timing.task): timing.median for timing in timings}
    print(f"median of {rounds} rounds in turn, {os.cpu_count()} cores; seconds, of steps for one:")
    for timing in timings:
        low, high = min(timing.seconds), max(timing.seconds)
        print(f"  {timing.worker:10s} {timing.task:17s} {timing.median:8.4f} s   ({low:.4f} to {high:.4f})")
    base = medians["1 devices", "step_in_1"]
    ratios = {f"{w} {t}: images/s against one device at once": base / s for (w, t), s in medians.items() if t in steps}
    step = medians[as_users_have_it, "data_step"]
    ratios["the wait for data, share of a step"] = medians[as_users_have_it, "data_wait"] / step
    ratios["a checkpoint's stall, in steps"] = medians[as_users_have_it, "checkpoint_stall"] / step
    ratios["the same over 5,000 steps, share of their time"] = ratios["a checkpoint's stall, in steps"] / 5000
    ratios["a resume without compiling, in steps"] = medians[as_users_have_it, "resume"] / step
    for name, ratio in ratios.items():
        print(f"  {name}: {ratio:.4g}")
    return ratios


def _worker(devices: int):
    from benchmarks.interleave import Worker

    # One setting for all processes: configure_host would give each process one device per core.
    command = [
        "env",
        f"JAX_NUM_CPU_DEVICES={devices}",
        sys.executable,
        "-m",
        "benchmarks.workers.training",
        str(devices),
    ]
    return Worker(f"{devices} devices", command)


if __name__ == "__main__":
    run(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
