"""Starts an entry point in several processes on this machine by flags, as a user would, and waits for them."""

import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence

ROOT = pathlib.Path(__file__).parent.parent.parent
_held: list[socket.socket] = []


def coordinator() -> str:
    """An address for process 0, whose port nobody else is given while this process lives.

    The socket that holds the port never listens, and gRPC's may share it.
    """
    _held.append(socket.socket())
    _held[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    _held[-1].bind(("localhost", 0))
    return f"localhost:{_held[-1].getsockname()[1]}"


def config_flags(fields: Mapping[str, object]) -> list[str]:
    """--config.FIELD=VALUE for each."""
    return [f"--config.{name}={value}" for name, value in fields.items()]


def launch(
    module: str, arguments: Sequence[str], number: int = 2, devices: int = 2, timeout_s: int = 600
) -> list[subprocess.CompletedProcess[str]]:
    """Runs `python -m module` in `number` processes with `devices` CPU devices each; all must succeed.

    One process gets none of the flags that several need.
    """
    environment, address = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)}, coordinator()

    def start(index: int) -> subprocess.Popen[str]:
        which = [f"--coordinator_address={address}", f"--num_processes={number}", f"--process_id={index}"]
        command = [sys.executable, "-m", module, *arguments, *(which if number > 1 else [])]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes)

    running, done = [start(index) for index in range(number)], []
    try:
        for process in running:
            out, err = process.communicate(timeout=timeout_s)
            done.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    finally:
        for process in running:
            process.kill()
    for process in done:
        assert process.returncode == 0, process.stderr[-3000:]
    return done
