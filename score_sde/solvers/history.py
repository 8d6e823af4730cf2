"""What the multistep solvers share: the past answers of the network, and polynomials through them.

The nodes of a polynomial are 0 for the present answer D_0 and θ_1, θ_2 … for the past ones D_1, D_2 …, in units of the step,
so that the step goes from 0 to 1 and past nodes are negative.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from score_sde.solvers.base import Batch, Count, Scalar

ALWAYS = 2**31 - 1  # of `lower_order_below`


class History(NamedTuple):
    """The last answers and their times, the newest first; how many steps were made, and how many a solve has."""

    answers: Float[Array, "k b *shape"]
    times: Float[Array, " k"]
    made: Int[Array, ""]
    num_steps: Int[Array, ""]

    def push(self, answer: Batch, t: Scalar) -> "History":
        """With the answer at t, and without the oldest one."""
        answers = jnp.concatenate([answer[None], self.answers])[: len(self.answers)]
        times = jnp.concatenate([t[None], self.times])[: len(self.times)]
        return History(answers, times, self.made + 1, self.num_steps)

    def order(self, order: int, lower_order_below: Count = 0) -> Int[Array, ""]:
        """The order of the coming step: as many answers as there are, the present one included, at most `order`.

        In a solve of fewer than `lower_order_below` steps the last step has order 1, the last but one at most 2, and so on.
        """
        left = jnp.where(self.num_steps < lower_order_below, self.num_steps - self.made, order)
        return jnp.minimum(jnp.minimum(order, self.made + 1), left)


def start(x: Batch, length: int, num_steps: Count) -> History:
    """A history of `length` answers, none of them given yet."""
    answers, times = jnp.zeros((length, *x.shape), x.dtype), jnp.zeros(length, x.dtype)
    return History(answers, times, jnp.zeros((), jnp.int32), jnp.asarray(num_steps, jnp.int32))


def usable(order: Count, nodes: Float[Array, " k"], gains: Float[Array, " n"]) -> Int[Array, ""]:
    """`order`, or less where a past node is not usable; 1 where the step itself is infinite.

    Past nodes have to lie before 0, each before the last: not infinitely far (α = 0 there), nor where a restart has led back
    to a time that was there before.
    """
    before = jnp.isfinite(nodes) & (nodes < jnp.concatenate([jnp.zeros(1, nodes.dtype), nodes])[: len(nodes)])
    number = jnp.sum(jnp.cumprod(before, dtype=jnp.int32), dtype=jnp.int32)
    return jnp.where(jnp.all(jnp.isfinite(gains)), jnp.minimum(order, number + 1), 1)


def weights(nodes: Float[Array, " k"], order: Count, gains: Float[Array, " n"]) -> Float[Array, " k"]:
    """w_i = ∫ ℓ_i for the nodes θ_i, i >= 1, of which the first `order` − 1 are used; the others have weight 0.

    ℓ_i is Lagrange's polynomial for the node θ_i and 0 at the others and at 0; `gains` are the integrals of 1, θ, θ² …
    The integral of the whole polynomial is gains[0] D_0 + Σ_i w_i (D_i − D_0).
    """
    every = [jnp.zeros((), nodes.dtype), *(nodes[i] for i in range(len(nodes)))]
    found = []
    for i in range(1, len(every)):
        polynomial = jnp.zeros_like(gains).at[0].set(1.0)
        for j in (j for j in range(len(every)) if j != i):
            gap = jnp.where(j < order, every[i] - every[j], 1.0)
            multiplied = jnp.roll(polynomial, 1).at[0].set(0.0) - every[j] * polynomial
            polynomial = jnp.where(j < order, multiplied / gap, polynomial)
        found.append(jnp.where(i < order, jnp.dot(polynomial, gains), 0.0))
    return jnp.stack(found) if found else nodes


def correction(given: Float[Array, " k"], answers: Float[Array, "k b *shape"], present: Batch) -> Batch:
    """Σ_i w_i (D_i − D_0)."""
    total = jnp.zeros_like(present)
    for weight, answer in zip(given, answers, strict=False):
        total = total + weight * (answer - present)
    return total


def extrapolate(
    history: History,
    order: Int[Array, ""],
    answer: Batch,
    t: Scalar,
    base: Batch,
    nodes: Float[Array, " k"],
    gains: Float[Array, " n"],
) -> tuple[Batch, History]:
    """(base + Σ_i w_i (D_i − D_0), the history with D_0 = `answer` at t): a whole multistep step.

    `base` is the step for an answer that stays D_0.
    """
    found = weights(nodes, usable(order, nodes, gains), gains)
    return base + correction(found, history.answers, answer), history.push(answer, t)
