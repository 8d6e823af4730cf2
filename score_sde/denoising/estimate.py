"""The pair (x̂0, ε̂) that every denoiser returns.

Symbols: x_t = α x0 + σ ε, with α and σ the signal and noise scales of the SDE at time t.
"""

from typing import NamedTuple

from jaxtyping import Array, Float


class Estimate(NamedTuple):
    """The pair (x̂0, ε̂) at x_t, with α x̂0 + σ ε̂ = x_t.

    The score is −ε̂/σ. Velocities are linear in the pair.
    """

    x0: Float[Array, "b *shape"]
    eps: Float[Array, "b *shape"]
