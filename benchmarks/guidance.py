"""The cost of guidance over the bare evaluations of the network that it needs, within one process.

The network is the benchmark's U-Net with 10 classes, on 8 images of 32×32×3. Each task takes STEPS
steps. A step of classifier-free guidance is compared with two evaluations, a step outside of the
interval with one, and a step of DPS with one evaluation and its backward pass. The evaluations are
called one by one, each as a compiled program.
"""

import os
import sys

STEPS, BATCH_SIZE, SHAPE = 4, 8, (32, 32, 3)
RATIOS = {  # name -> (task, the task that it is compared with, the limit)
    "a guided step over two evaluations": ("guided", "two_evaluations", 1.03),
    "a guided step over one evaluation of twice the batch": ("guided", "twice_the_batch", 1.03),
    "a step outside of the interval over one evaluation": ("outside", "one_evaluation", 1.03),
    "perturbed attention after it over three evaluations": ("perturbed", "three_evaluations", 1.03),
    "a step of DPS over a forward and a backward pass": ("dps", "forward_and_backward", 1.1),
}


def run(rounds: int) -> dict[str, float]:
    """Measures and prints."""
    from benchmarks.interleave import Worker, interleave

    worker = Worker("score_sde", [sys.executable, "-m", "benchmarks.workers.guidance"])
    tasks = dict.fromkeys(name for names in RATIOS.values() for name in names[:2])
    timings = interleave([worker], {worker.name: list(tasks)}, rounds)
    worker.close()
    print(f"median of {rounds} rounds in turn, {os.cpu_count()} cores, {worker.facts}; {STEPS} steps each:")
    for timing in timings:
        low, high = min(timing.seconds), max(timing.seconds)
        print(f"  {timing.task:20s} {timing.median:8.4f} s   ({low:.4f} to {high:.4f})")
    seconds = {timing.task: timing.seconds for timing in timings}
    ratios = {}
    for name, (task, base, limit) in RATIOS.items():
        # A round's two tasks run one soon after the other, so the speed of the machine cancels.
        each = sorted(a / b for a, b in zip(seconds[task], seconds[base], strict=True))
        ratios[name] = each[len(each) // 2]
        print(f"  {name}: {ratios[name]:.3f} ({each[0]:.3f} to {each[-1]:.3f}; the aim is {limit})")
    return ratios
