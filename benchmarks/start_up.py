"""Start-up: `import score_sde` and `score-sde train --help` as whole processes, against an empty process."""

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import jax": ["-c", "import jax"],
    "import score_sde": ["-c", "import score_sde"],
    "score_sde.sample, VP and Denoiser": ["-c", "import score_sde; score_sde.sample, score_sde.VP, score_sde.Denoiser"],
    "score-sde train --help": ["-m", "score_sde", "train", "--help"],
}


def run(rounds: int) -> dict:
    """Measures and prints the median seconds of each command."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds + 1):
        for name, arguments in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], capture_output=True, check=False)
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    for name, median in medians.items():
        print(f"  {name:36s} {median:6.2f} s")
    return medians
