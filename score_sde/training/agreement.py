"""What one process does for all, with its outcome known to all, and what all must agree on."""

from collections.abc import Callable

import jax
import numpy as np

MESSAGE_BYTES = 2048
ERRORS = (ValueError, OSError)


def on_first_process(function: Callable[[], object]) -> None:
    """Calls `function` on process 0; what it raises is raised on every process, so that none waits for one that left.

    Every process must call it. Raises: ValueError or OSError, as `function` did; its number and file are known on 0 alone.
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
