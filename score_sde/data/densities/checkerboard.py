"""The black squares of a checkerboard."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int64

from score_sde.data.densities.base import Density, Points, equal_weights, require


@dataclasses.dataclass(frozen=True)
class Checkerboard(Density):
    """Uniform on the squares (row, column) with even row + column of a board on [−half_width, half_width]².

    Attributes:
      squares_per_side: the number of rows and columns.
      half_width: half the side of the board.
    """

    squares_per_side: int = 4
    half_width: float = 2.0

    def __post_init__(self):
        require(
            self.squares_per_side >= 1 and self.half_width > 0,
            f"Checkerboard needs squares_per_side >= 1 and half_width > 0, got {self.squares_per_side}, "
            f"{self.half_width}.",
        )

    @property
    def weights(self) -> Float[np.ndarray, " k"]:
        """Equal for all black squares."""
        return equal_weights(len(self._black()))

    def transport(self, component: Int64[np.ndarray, " n"], u: Float[np.ndarray, "n 2"], z: Points) -> Points:
        """x = the square's lower left corner + its side · u."""
        return (self._black()[component] + u) * self._side() - self.half_width

    def component_log_prob(self, x: Points) -> Float[np.ndarray, "n k"]:
        """−2 ln(side) inside square k, and −∞ outside."""
        square = np.floor((x + self.half_width) / self._side())
        inside = np.all(square[:, None] == self._black(), axis=-1)
        return np.where(inside, -2 * np.log(self._side()), -np.inf)

    def _side(self) -> float:
        return 2 * self.half_width / self.squares_per_side

    def _black(self) -> Int64[np.ndarray, "k 2"]:
        squares = np.indices((self.squares_per_side, self.squares_per_side)).reshape(2, -1).T
        return squares[squares.sum(axis=1) % 2 == 0]
