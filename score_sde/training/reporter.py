"""The output to a user during long work: sentences, a progress bar, and the names of stages."""

import contextlib
from collections.abc import Callable
from typing import Any

import jax

from score_sde.training.logs.progress import Progress
from score_sde.training.logs.stages import stage


class Reporter:
    """Prints on the first process only.

    Args:
      quiet: whether to hide bars and stages. Sentences are still printed.
      on_result: a function of the name and the value of a result. Every process calls it as soon as
        the result exists. A command prints and writes the result there.
    """

    def __init__(self, quiet: bool = False, on_result: Callable[[str, Any], None] | None = None):
        self.quiet, self._on_result = quiet, on_result

    def say(self, sentence: str) -> None:
        """Prints a sentence."""
        if jax.process_index() == 0:
            print(sentence)

    def result(self, name: str, value: Any) -> None:
        """Passes on a result that is part of a larger result, so that it is not lost if the rest fails."""
        if self._on_result is not None:
            self._on_result(name, value)

    def progress(self, total: int, start: int = 0, batch_size: int = 1, name: str = "train", **how: Any) -> Progress:
        """Shows how many of `total` parts are done. Close it, or use it in a with statement."""
        return Progress(total, start, batch_size, self.quiet or jax.process_index() != 0, name=name, **how)

    def stage(self, name: str) -> contextlib.AbstractContextManager[None]:
        """A context for long work, which is named after five seconds."""
        return stage(name, quiet=self.quiet or jax.process_index() != 0)
