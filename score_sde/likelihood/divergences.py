"""The divergence of a velocity field, as the trace of its Jacobian J: exact, or from random probes.

The field is linearized once at x. The velocity and all products J ε then share one evaluation of
the network.

Symbols: v(x) is the velocity of a batch whose examples do not interact, J = ∂v/∂x is the Jacobian
of one example, and d is its dimension.
"""

import abc
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from score_sde.internal.per_example import per_example
from score_sde.internal.pytree import pytree, static

Velocity = Callable[[Float[Array, "b *shape"]], Float[Array, "b *shape"]]
Probes = Float[Array, "b p *shape"] | None

KINDS = {"rademacher": jax.random.rademacher, "gaussian": jax.random.normal}


class Divergence(abc.ABC):
    """div v = tr J, as p values for each example. Their mean is the divergence, or an unbiased estimate."""

    @abc.abstractmethod
    def draw(self, key: Key[Array, " b"], x: Float[Array, "b *shape"]) -> Probes:
        """The probes of a whole solve, image by image, or None.

        They are drawn once for a solve. New probes at each evaluation would make the integrand
        noise, and no error control can follow noise.
        """

    @abc.abstractmethod
    def __call__(
        self, velocity: Velocity, x: Float[Array, "b *shape"], probes: Probes
    ) -> tuple[Float[Array, "b *shape"], Float[Array, "b p"]]:
        """(v(x), p values of div v(x))."""


@pytree
class ExactTrace(Divergence):
    """div v = Σ_i e_iᵀ J e_i, with p = 1.

    It makes d products with J, `chunk_size` of them at a time. One product costs about a forward
    evaluation. It needs the memory of `chunk_size` forward evaluations.

    Args:
      chunk_size: the number of products with J at a time.
    Raises: ValueError unless chunk_size >= 1.
    """

    chunk_size: int = static(default=16)

    def __post_init__(self):
        if self.chunk_size < 1:
            raise ValueError(f"ExactTrace needs chunk_size >= 1, got {self.chunk_size}.")

    def draw(self, key: Key[Array, " b"], x: Float[Array, "b *shape"]) -> Probes:
        return None

    def __call__(
        self, velocity: Velocity, x: Float[Array, "b *shape"], probes: Probes
    ) -> tuple[Float[Array, "b *shape"], Float[Array, "b p"]]:
        value, product = jax.linearize(velocity, x)
        dimension = math.prod(x.shape[1:])

        def diagonal(i):
            basis = jax.nn.one_hot(i, dimension, dtype=x.dtype).reshape(1, *x.shape[1:])
            return product(jnp.broadcast_to(basis, x.shape)).reshape(x.shape[0], -1)[:, i]

        size = min(self.chunk_size, dimension)
        diagonals = jax.lax.map(diagonal, jnp.arange(dimension), batch_size=size)
        return value, jnp.sum(diagonals, axis=0)[:, None]


@pytree
class Hutchinson(Divergence):
    """div v ≈ εᵀ J ε with E[ε εᵀ] = I: one value for each of `num_probes` probes.

    Args:
      num_probes: the number of probes for each image.
      kind: the distribution of the probes: "rademacher" or "gaussian".
    Error: unbiased. With S = (J + Jᵀ)/2, the variance of one value is 2 Σ_{i≠j} S_ij² for
      "rademacher" (ε_i = ±1), and 2 Σ_ij S_ij² for "gaussian". So Rademacher probes are never
      worse, and they are exact for a diagonal J. The difference is large where the flow mostly
      scales x: on a 2-D mixture with VE, one Gaussian probe was wrong by 9 nats.
    Raises: ValueError unless num_probes >= 1, or for an unknown kind.
    Source: Hutchinson 1990; Grathwohl et al., arXiv 1810.01367, Sec. 3.1; arXiv 2011.13456, App.
      D.2.
    """

    num_probes: int = static(default=1)
    kind: str = static(default="rademacher")

    def __post_init__(self):
        if self.num_probes < 1:
            raise ValueError(f"Hutchinson needs num_probes >= 1, got {self.num_probes}.")
        if self.kind not in KINDS:
            raise ValueError(f"Hutchinson needs a kind among {', '.join(KINDS)}, got {self.kind!r}.")

    def draw(self, key: Key[Array, " b"], x: Float[Array, "b *shape"]) -> Probes:
        shape = (self.num_probes, *x.shape[1:])
        return jax.vmap(lambda image_key: KINDS[self.kind](image_key, shape, x.dtype))(key)

    def __call__(
        self, velocity: Velocity, x: Float[Array, "b *shape"], probes: Probes
    ) -> tuple[Float[Array, "b *shape"], Float[Array, "b p"]]:
        return _along(velocity, x, probes)


@pytree
class GivenProbes(Divergence):
    """div v ≈ εᵀ J ε for the probes ε of an array [b, p, *shape], to repeat another computation.

    Raises: ValueError, when drawn for x [b, *shape], for any other shape.
    """

    probes: Float[Array, "b p *shape"]

    def draw(self, key: Key[Array, " b"], x: Float[Array, "b *shape"]) -> Probes:
        shape = self.probes.shape
        if len(shape) != x.ndim + 1 or (shape[0], *shape[2:]) != x.shape:
            raise ValueError(f"GivenProbes needs probes [b, p, *shape] for x {x.shape}, got {shape}.")
        return self.probes.astype(x.dtype)

    def __call__(
        self, velocity: Velocity, x: Float[Array, "b *shape"], probes: Probes
    ) -> tuple[Float[Array, "b *shape"], Float[Array, "b p"]]:
        return _along(velocity, x, probes)


def _along(velocity: Velocity, x: Float[Array, "b *shape"], probes: Any):
    """(v(x), εᵀ J ε for each probe): [b, *shape] and [b, p]."""
    value, product = jax.linearize(velocity, x)
    products = jax.vmap(product, in_axes=1, out_axes=1)(probes)
    return value, jax.vmap(per_example, in_axes=1, out_axes=1)(probes * products)
