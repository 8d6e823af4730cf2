"""The objective protocol."""

import abc
from collections.abc import Mapping

from jaxtyping import Array, Float, Key

from score_sde.dynamics import Denoise


class Objective(abc.ABC):
    """(key, denoise, batch) -> (loss [b], scalars), a loss for each example and other numbers worth logging.

    `scalars` holds `[b]` arrays by name; every objective gives "t", the noise levels it drew.
    """

    @abc.abstractmethod
    def __call__(
        self, key: Key[Array, ""], denoise: Denoise, batch: Mapping[str, Array]
    ) -> tuple[Float[Array, " b"], dict[str, Float[Array, " b"]]]:
        """The loss of each example of `batch["x"]`, with times and noise drawn from `key`."""
