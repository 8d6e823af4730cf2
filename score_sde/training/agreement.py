"""Agreement between processes: work that one process does for all, and conditions on all processes."""

from collections.abc import Callable

import jax
import numpy as np

MESSAGE_BYTES = 2048
ERRORS = (ValueError, OSError)


def on_first_process(function: Callable[[], object]) -> None:
    """Calls `function` on process 0. An error of the function is raised on every process.

    So no process waits for another process that has left. Every process must call this function.

    Raises: ValueError or OSError, as `function` did. Only process 0 knows the number and the file
      of the error.
    """
    if jax.process_count() == 1:
        function()
        return
    from jax.experimental import multihost_utils

    error: Exception | None = None
    if jax.process_index() == 0:
        try:
            function()
        except ERRORS as caught:
            error = caught
    outcome = np.zeros(1 + MESSAGE_BYTES, np.uint8)
    if error is not None:
        text = np.frombuffer(str(error).encode()[:MESSAGE_BYTES], np.uint8)
        outcome[0], outcome[1 : 1 + len(text)] = 1 + isinstance(error, OSError), text
    outcome = np.asarray(multihost_utils.broadcast_one_to_all(outcome))
    if error is not None:
        raise error
    if outcome[0]:
        raise ERRORS[outcome[0] - 1](outcome[1:].tobytes().rstrip(b"\0").decode(errors="replace"))


def everywhere(condition: bool) -> bool:
    """Whether `condition` holds on every process. Every process must call it."""
    if jax.process_count() == 1:
        return condition
    from jax.experimental import multihost_utils

    return bool(np.all(multihost_utils.process_allgather(np.asarray(condition))))
