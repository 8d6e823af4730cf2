"""A running trial: its commands one after another, each a process with its own log and its share of the machine."""

import dataclasses
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from score_sde.sweeps import child
from score_sde.sweeps.trial import LOG, Record, Trial
from score_sde.training.stopping import EXIT


class Execution:
    """Runs a trial's commands from the first that is not done. `poll` moves it forward, and never waits.

    A process was preempted if SIGTERM or SIGKILL ended it, or if it ended with success before
    training did. Then it is started again, and continues from its checkpoint. Any other exit is a
    failure.

    Args:
      trial: the trial, whose folder exists.
      environment: variables that are added to the environment of this process.
      cores: the CPU cores of the processes. None is all cores.
      max_retries: how often in a row it is started again without a new step, before it has failed.
      passed: file descriptors that the processes keep open, such as the sweep's lock.
    """

    def __init__(
        self,
        trial: Trial,
        environment: Mapping[str, str] | None = None,
        cores: Sequence[int] | None = None,
        max_retries: int = 3,
        passed: Sequence[int] = (),
    ):
        self.trial, self.record = trial, trial.record()
        self._environment, self._cores, self._passed = dict(environment or {}), cores, tuple(passed)
        self._max_retries, self._retries, self._furthest = max_retries, 0, trial.step
        self._base_seconds, self._begun = self.record.seconds, time.monotonic()
        self._process: subprocess.Popen[bytes] | None = None
        self._start(again=self.record.state in ("running", "stopped", "requeued", "failed"))

    def poll(self) -> Record | None:
        """None while the trial runs, and its record once it is finished or has failed."""
        if self._process is None:
            return self.record
        code = self._process.poll()
        if code is None:
            return None
        command = self.trial.commands[len(self.record.done)]
        reached = len(self.record.done) > 0 or self.trial.step >= self.trial.num_steps
        if code == 0 and reached:
            self._write(done=(*self.record.done, shlex.join(command)))
            self._start()
        elif code in (0, -signal.SIGTERM, -signal.SIGKILL, 128 + signal.SIGTERM, 128 + signal.SIGKILL):
            self._retry(f"was pre-empted ({_exit(code)} at step {self.trial.step} of {self.trial.num_steps})")
        else:
            self._end("failed", f"{_exit(code)}: {self.trial.last_line()}")
        return None if self._process is not None else self.record

    def stop(self, state: str = "stopped", grace_seconds: float | int = 60) -> Record:
        """Asks the process to save and end, and records `state`.

        It kills a process that does not end within the grace time.
        """
        self.terminate()
        if self._process is not None:
            try:
                self._process.wait(grace_seconds)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        self._end(state, "")
        return self.record

    def terminate(self) -> None:
        """Asks the process to save and end, and returns at once."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)

    def _start(self, again: bool = False) -> None:
        """Starts the next command, or ends the trial when there is none."""
        number = len(self.record.done)
        if number == len(self.trial.commands):
            self._end("finished", "")
            return
        words = list(self.trial.commands[number])
        with (self.trial.folder / LOG).open("ab") as log:
            log.write(f"$ {shlex.join(words)}\n".encode())
            log.flush()
            self._process = subprocess.Popen(
                child.command(executable(words), self._cores),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", EXIT: str(128 + signal.SIGTERM), **self._environment},
                process_group=0,  # a Ctrl-C then reaches only the sweep, which asks its trials to end
                pass_fds=self._passed,
            )
        self._write(state="running", retries=self.record.retries + again, message="")

    def _retry(self, why: str) -> None:
        step = self.trial.step
        self._retries = self._retries + 1 if step <= self._furthest else 1
        self._furthest = max(self._furthest, step)
        if self._retries > self._max_retries:
            self._end("failed", f"{why} after {self._max_retries} starts without a new step")
            return
        with (self.trial.folder / LOG).open("a") as log:
            log.write(f"The command {why}; it is started again.\n")
        self._start(again=True)

    def _end(self, state: str, message: str) -> None:
        self._process = None
        self._write(state=state, message=message)

    def _write(self, **changes) -> None:
        seconds = self._base_seconds + time.monotonic() - self._begun
        self.record = dataclasses.replace(self.record, seconds=round(seconds, 2), **changes)
        self.trial.write_record(self.record)


def executable(words: Sequence[str]) -> list[str]:
    """The words, with this interpreter in place of a first word "python"."""
    return [sys.executable if words[0] == "python" else words[0], *words[1:]]


def run_to_end(execution: Execution, interval_seconds: float = 0.2) -> Record:
    """Waits for the end of a trial."""
    while (record := execution.poll()) is None:
        time.sleep(interval_seconds)
    return record


def _exit(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
