"""The U-Net benchmark: training step and sampling, against PyTorch (diffusers) and the machine's matrix-multiply peak.

A DDPM++-like network of 64 channels, multipliers 1-2-2, 2 blocks a level, attention at 16, on 16 images of 32×32×3 in
float32: about 7.0 M parameters and 3.5 GFLOP for a forward pass of one image.
"""

import os
import sys

BATCH_SIZE, SHAPE, HEUN_STEPS = 16, (32, 32, 3), 18


def run(rounds: int, torch_python: str | None) -> dict:
    """Measures and prints; `torch_python` is an interpreter with torch and diffusers (None: without them)."""
    from benchmarks.interleave import Worker, interleave

    workers = [Worker("score_sde", [sys.executable, "-m", "benchmarks.workers.ours"])]
    if torch_python:
        workers.append(Worker("diffusers", [torch_python, "-m", "benchmarks.workers.diffusers_unet"]))
    tasks = {"score_sde": ["train", "evaluations", "solve", "matmul"], "diffusers": ["train", "solve"]}
    timings = interleave(workers, tasks, rounds)
    for worker in workers:
        worker.close()
    medians = {(timing.worker, timing.task): timing.median for timing in timings}
    ours = workers[0].facts
    peak = 2 * 2048**3 / medians["score_sde", "matmul"] / 1e9
    # A step is a forward pass and a backward pass of twice its cost.
    achieved = 3 * BATCH_SIZE * ours["gflop_per_forward"] / medians["score_sde", "train"]
    print("\n".join(f"{w.name}: {w.facts}" for w in workers))
    print(f"median of {rounds} rounds in turn, {os.cpu_count()} cores:")
    for timing in timings:
        low, high = min(timing.seconds), max(timing.seconds)
        print(f"  {timing.worker:10s} {timing.task:12s} {timing.median:8.4f} s   ({low:.4f} to {high:.4f})")
    ratios = {
        "solve over its bare evaluations": medians["score_sde", "solve"] / medians["score_sde", "evaluations"],
        "training step's share of the matmul peak": achieved / peak,
    }
    if torch_python:
        for task in ("train", "solve"):
            ratios[f"{task}: PyTorch's time over ours"] = medians["diffusers", task] / medians["score_sde", task]
    for name, ratio in ratios.items():
        print(f"  {name}: {ratio:.3f}")
    return {"medians": {" ".join(key): value for key, value in medians.items()}, "ratios": ratios, "facts": ours}
