"""The output to a user during long work: sentences, a progress bar, and the names of stages."""

import contextlib
from typing import Any

import jax

from score_sde.training.logs.progress import Progress
from score_sde.training.logs.stages import stage


class Reporter:
    """Prints on the first process only.

    Args:
      quiet: whether to hide bars and stages. Sentences are still printed.
    """

    def __init__(self, quiet: bool = False):
        self.quiet = quiet

    def say(self, sentence: str) -> None:
        """Prints a sentence."""
        if jax.process_index() == 0:
            print(sentence)

    def progress(self, total: int, start: int = 0, batch_size: int = 1, name: str = "train", **how: Any) -> Progress:
        """Shows how many of `total` parts are done. Close it, or use it in a with statement."""
        return Progress(total, start, batch_size, self.quiet or jax.process_index() != 0, name=name, **how)

    def stage(self, name: str) -> contextlib.AbstractContextManager[None]:
        """A context for long work, which is named after five seconds."""
        return stage(name, quiet=self.quiet or jax.process_index() != 0)
