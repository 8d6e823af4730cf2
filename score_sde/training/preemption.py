"""Stop requests: SIGTERM, one SIGINT (Ctrl-C), or the notice that a machine will be taken away."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import jax

from score_sde.training.stopping import NAMES


class StopRequest:
    """A context in which SIGTERM and the first SIGINT ask the run to stop, instead of ending the process.

    In a run of several processes, JAX's preemption service watches for SIGTERM (and, on Cloud TPU,
    for the maintenance notice). `reached` then becomes true on all processes at the same step,
    whichever process got the notice. A second SIGINT interrupts at once. Signals that the parent
    process told this process to ignore (nohup, &) stay ignored.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            watched = [signal.SIGINT] if self._several() else [signal.SIGINT, signal.SIGTERM]
            heard = [number for number in watched if signal.getsignal(number) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._handle) for number in heard}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def reached(self, step: int) -> bool:
        """Whether to save and stop after `step`.

        In a run of several processes, every process must call it at its first step and at every
        step.
        """
        if self._several():
            from jax.experimental import multihost_utils

            if multihost_utils.reached_preemption_sync_point(step):
                self.reason = self.reason or "a preemption notice"
                return True
            return False
        return self.reason is not None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.reason = NAMES[signal.Signals(number)]
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if self._several():
                signal.raise_signal(signal.SIGTERM)  # JAX's service watches for it, and tells the other processes

    @staticmethod
    def _several() -> bool:
        return jax.process_count() > 1
