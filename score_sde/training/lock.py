"""A lock that allows one training run at a time in a folder."""

import fcntl
import json
import os
import pathlib
import socket
import time
from types import TracebackType

from score_sde.internal.files import parse_json
from score_sde.training.agreement import on_first_process

LOCK_FILE = "run.lock"


class RunLock:
    """A context in which process 0 holds workdir/run.lock. The file says which run holds it, and since when.

    The lock is the kernel's (flock), not the file itself. It ends with the process, however the
    process ends, and the file may stay. On NFS the lock works between hosts if the server supports
    locks, as Linux does by default. On a file system that ignores flock, two hosts could both
    enter.

    Raises: OSError where another process holds the lock, or where `workdir` cannot be written.
    """

    def __init__(self, workdir: str | os.PathLike[str]) -> None:
        self.path = pathlib.Path(workdir) / LOCK_FILE
        self._file: int | None = None

    def __enter__(self) -> "RunLock":
        on_first_process(self._acquire)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _acquire(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = _describe(os.pread(file, 1000, 0))
            os.close(file)
            raise OSError(
                f"Another run{holder} is training in {self.path.parent}; wait for it or stop it, or choose another --workdir."
            ) from error
        except BaseException:
            os.close(file)
            raise
        os.ftruncate(file, 0)
        owner = {"host": socket.gethostname(), "pid": os.getpid(), "started": time.strftime("%Y-%m-%d %H:%M:%S%z")}
        os.pwrite(file, json.dumps(owner).encode() + b"\n", 0)
        self._file = file


def _describe(holder: bytes) -> str:
    """' (host …, process …, since …)', or '' while the holder has not written it yet."""
    try:
        fields = parse_json(holder, LOCK_FILE, "wait")
        return f" (host {fields['host']}, process {fields['pid']}, since {fields['started']})"
    except (ValueError, KeyError):
        return ""
