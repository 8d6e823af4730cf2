"""The U-Net benchmark: training step and sampling, against other libraries and the machine's matrix-multiply peak.

The network is like DDPM++, with 64 channels, multipliers 1-2-2, 2 blocks, attention at 16 and
dropout 0.1. The data are 16 images of 32×32×3 in float32. It has about 7.0 M parameters, and 3.5
GFLOP for a forward pass of one image, with convolutions counted as direct sums. The network of
diffusers changes the resolution by one convolution, as DDPM does. So it is also compared with that
variant of ours.
"""

import os
import sys

BATCH_SIZE, SHAPE, HEUN_STEPS = 16, (32, 32, 3), 18
GFLOP_PER_FORWARD = 3.318  # of one image, by XLA's count of the network without fast convolutions
OURS, OURS_DDPM = "score_sde", "score_sde, DDPM's resampling"
TASKS = {
    OURS: ["train", "evaluations", "solve", "matmul"],
    OURS_DDPM: ["train", "solve"],
    "edm": ["train", "solve"],
    "diffusers": ["train", "solve"],
    "2021 code": ["train", "evaluations"],
    "hackable_diffusion": ["train", "evaluations"],
}


def run(
    rounds: int,
    torch_python: str | None = None,
    edm: str | None = None,
    score_sde_2021: str | None = None,
    hackable_python: str | None = None,
) -> dict:
    """Measures and prints, with the peers whose interpreter or checkout is given (EDM's runs with `torch_python`)."""
    from benchmarks.interleave import Worker, interleave

    here = sys.executable
    peer, torch_peer = (["-m", f"benchmarks.workers.{name}"] for name in ("jax_peers", "torch_peers"))
    commands = {
        OURS: [here, "-m", "benchmarks.workers.ours"],
        OURS_DDPM: torch_python and [here, "-m", "benchmarks.workers.ours", "--resample_by=convolution"],
        "edm": torch_python and edm and [torch_python, *torch_peer, "edm", edm],
        "diffusers": torch_python and [torch_python, *torch_peer, "diffusers"],
        "2021 code": score_sde_2021 and [here, *peer, "score_sde", score_sde_2021],
        "hackable_diffusion": hackable_python and [hackable_python, *peer, "hackable_diffusion"],
    }
    workers = [Worker(name, command) for name, command in commands.items() if command]
    timings = interleave(workers, TASKS, rounds)
    for worker in workers:
        worker.close()
    medians = {(timing.worker, timing.task): timing.median for timing in timings}
    print("\n".join(f"{w.name}: {w.facts}" for w in workers))
    print(f"median of {rounds} rounds in turn, {os.cpu_count()} cores:")
    for timing in timings:
        low, high = min(timing.seconds), max(timing.seconds)
        print(f"  {timing.worker:30s} {timing.task:12s} {timing.median:8.4f} s   ({low:.4f} to {high:.4f})")
    ratios = _ratios(medians)
    for name, ratio in ratios.items():
        print(f"  {name}: {ratio:.3f}")
    facts = {worker.name: worker.facts for worker in workers}
    return {"medians": {" ".join(key): value for key, value in medians.items()}, "ratios": ratios, "facts": facts}


def _ratios(medians: dict[tuple[str, str], float]) -> dict[str, float]:
    """Ours over the limit, and the peers' over ours."""
    peak = 2 * 2048**3 / medians[OURS, "matmul"] / 1e9
    # A step is a forward pass and a backward pass of twice its cost.
    achieved = 3 * BATCH_SIZE * GFLOP_PER_FORWARD / medians[OURS, "train"]
    ratios = {
        "solve over its bare evaluations": medians[OURS, "solve"] / medians[OURS, "evaluations"],
        "training step, FLOP/s of direct convolutions over the matmul peak": achieved / peak,
    }
    for (worker, task), seconds in medians.items():
        if worker in (OURS, OURS_DDPM):
            continue
        ratios[f"{task}: time of {worker} over ours"] = seconds / medians[OURS, task]
        if worker == "diffusers":
            ratios[f"{task}: time of {worker} over ours with DDPM's resampling"] = seconds / medians[OURS_DDPM, task]
    return ratios
