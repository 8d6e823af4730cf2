"""What a user sees of work that takes long: sentences, a bar of progress, and the names of stages."""

import contextlib
from typing import Any

import jax

from score_sde.training.logs.progress import Progress
from score_sde.training.logs.stages import stage


class Reporter:
    """Tells the user of the first process; those of the others hear nothing.

    Args: quiet: shows neither bars nor stages; sentences are still said.
    """

    def __init__(self, quiet: bool = False):
        self.quiet = quiet

    def say(self, sentence: str) -> None:
        """Prints a sentence."""
        if jax.process_index() == 0:
            print(sentence)

    def progress(self, total: int, start: int = 0, batch_size: int = 1, name: str = "train", **how: Any) -> Progress:
        """Shows how many of `total` parts are done; close it, or use it in a with statement."""
        return Progress(total, start, batch_size, self.quiet or jax.process_index() != 0, name=name, **how)

    def stage(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Around what takes long as a whole: it is named after five seconds."""
        return stage(name, quiet=self.quiet or jax.process_index() != 0)
