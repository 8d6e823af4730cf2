"""The objective protocol."""

import abc
from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Array, Float, Key

Batch = Mapping[str, Any]  # "x", "index", "condition" {name: array}; "weight" of x's numbers where some are padding
Draws = Any
Predict = Callable[..., Any]  # (x, t) -> Estimate; a plain function is enough, because the objective has its own SDE


class Objective(abc.ABC):
    """(key, model, batch) -> (loss [b], scalars): a loss for each example, and other numbers to log.

    The model is a denoiser, unless the objective says otherwise. `scalars` holds `[b]` arrays by
    name. Every objective returns the scalar "t", the noise levels of the examples. `draw` draws all
    random numbers, with one row for each example. So a part of a batch, with its rows of the draws,
    has the same losses as in the whole batch.
    """

    @abc.abstractmethod
    def draw(self, key: Key[Array, ""], batch: Batch) -> Draws:
        """All random numbers, such as times and noise: a pytree of arrays `[b, ...]`."""

    @abc.abstractmethod
    def losses(
        self, denoise: Any, batch: Batch, draws: Draws
    ) -> tuple[Float[Array, " b"], dict[str, Float[Array, " b"]]]:
        """(the loss of each example of `batch["x"]` for the draws of `draw`, the scalars)."""

    def __call__(
        self, key: Key[Array, ""], denoise: Any, batch: Batch
    ) -> tuple[Float[Array, " b"], dict[str, Float[Array, " b"]]]:
        """`losses` with draws from `key`."""
        return self.losses(denoise, batch, self.draw(key, batch))
