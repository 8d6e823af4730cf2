"""The objective protocol."""

import abc
from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Array, Float, Key

Batch = Mapping[str, Any]  # "x", "index", "condition" {name: array}
Draws = Any
Predict = Callable[..., Any]  # (x, t) -> Estimate: an objective has its own SDE, so a plain function will do


class Objective(abc.ABC):
    """(key, model, batch) -> (loss [b], scalars), a loss for each example and other numbers worth logging.

    The model is a denoiser, unless the objective says otherwise.

    `scalars` holds `[b]` arrays by name; every objective gives "t", the noise levels it drew. All randomness is drawn
    by `draw`, a row for each example, so that a part of a batch with its rows of the draws has the losses it has in
    the whole.
    """

    @abc.abstractmethod
    def draw(self, key: Key[Array, ""], batch: Batch) -> Draws:
        """Times, noise and whatever else is random: a pytree of arrays `[b, ...]`."""

    @abc.abstractmethod
    def losses(
        self, denoise: Any, batch: Batch, draws: Draws
    ) -> tuple[Float[Array, " b"], dict[str, Float[Array, " b"]]]:
        """The loss of each example of `batch["x"]` for what `draw` gave, and the scalars."""

    def __call__(
        self, key: Key[Array, ""], denoise: Any, batch: Batch
    ) -> tuple[Float[Array, " b"], dict[str, Float[Array, " b"]]]:
        """`losses` with draws from `key`."""
        return self.losses(denoise, batch, self.draw(key, batch))
