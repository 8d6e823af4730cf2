"""TensorBoard's event files, written in the calling thread."""

import time
from pathlib import Path

import numpy as np
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import image, scalar


class Events:
    """Writes scalars and pictures to a new event file of a folder.

    They replace what other files of the folder hold from `first_step` on.

    tensorboardX's SummaryWriter writes from a thread. When the disk is full, that thread dies, and
    the next call waits for it for ever. Here a call that cannot be written raises OSError.
    """

    def __init__(self, folder: Path, first_step: int, flush_seconds: float = 60.0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # The suffix distinguishes two files of the same second. The path is absolute, because
        # tensorboardX takes a relative path that begins with "gs:" for an address.
        self._writer = EventsWriter(str(folder.absolute() / "events"), f".{first_step}")
        self._flush_seconds, self._flushed = flush_seconds, time.monotonic()
        start = SessionLog(status=SessionLog.START)
        self._writer.write_event(Event(wall_time=time.time(), step=first_step, session_log=start))

    def scalar(self, step: int, name: str, value: float | int) -> None:
        self._write(step, scalar(name, value))

    def image(self, step: int, name: str, image_u8: np.ndarray) -> None:
        self._write(step, image(name, image_u8, dataformats="HWC"))

    def _write(self, step: int, summary: object) -> None:
        self._writer.write_event(Event(wall_time=time.time(), step=step, summary=summary))
        if time.monotonic() - self._flushed > self._flush_seconds:
            self.flush()

    def flush(self) -> None:
        self._writer.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        self._writer.close()
