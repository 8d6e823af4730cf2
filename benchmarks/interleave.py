"""Times several worker processes in turn, A B C A B C …, so that a drift of the machine's speed affects all alike."""

import json
import os
import statistics
import subprocess
import sys
from typing import NamedTuple

SHORT = 5.0  # a task is short below this many seconds


class Worker:
    """A process that does a task once when its name arrives on a line, and answers with a JSON number of seconds."""

    def __init__(self, name: str, command: list[str]):
        self.name = name
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        self.facts = self._read()

    def time(self, task: str) -> float:
        """Seconds of one run of the task."""
        self._process.stdin.write(task + "\n")
        self._process.stdin.flush()
        return float(self._read())

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait(timeout=30)

    def _read(self):
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"The worker {self.name} ended with code {self._process.wait()}; its error stands above."
            )
        return json.loads(line)


class Timing(NamedTuple):
    """Seconds of one task by one worker, over rounds."""

    worker: str
    task: str
    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def interleave(workers: list[Worker], tasks: dict[str, list[str]], rounds: int) -> list[Timing]:
    """Runs every worker's tasks once to warm up, then `rounds` times in turn.

    A short task runs twice in a turn, and the second run is timed. A process that waited for its
    turn is cold, because the other processes have taken its pages and caches.
    """
    timings = [Timing(worker.name, task, []) for worker in workers for task in tasks[worker.name]]
    by_name = {worker.name: worker for worker in workers}
    for timing in timings:
        by_name[timing.worker].time(timing.task)
    for number in range(rounds):
        for timing in timings:
            seconds = by_name[timing.worker].time(timing.task)
            if seconds < SHORT:
                seconds = by_name[timing.worker].time(timing.task)
            timing.seconds.append(seconds)
            print(f"round {number + 1}: {timing.worker} {timing.task} {seconds:.4f} s", file=sys.stderr, flush=True)
    return timings


def serve(tasks: dict, facts: dict) -> None:
    """The worker's side: it sends its facts, then does the requested tasks."""
    import time

    print(json.dumps(facts), flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        tasks[line.strip()]()
        print(json.dumps(time.perf_counter() - start), flush=True)
