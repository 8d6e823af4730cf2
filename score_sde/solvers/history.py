"""The history of a multistep solver: previous answers of the network, and polynomials through them.

An answer D is what the solver extrapolates: ε̂, x̂0 or a mixture. D_0 is the answer at the present
time, and D_1, D_2 … are the answers of previous steps, the newest first.

A polynomial has one node for each answer, measured in units of the step. The step runs from θ = 0
to θ = 1. The node of D_0 is 0, and the nodes θ_1, θ_2 … of the previous answers are negative.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from score_sde.solvers.base import Batch, Count, Scalar, StepsLeft

ALWAYS = 2**31 - 1  # a value of `lower_order_below`: every solve lowers the order of its last steps


class History(NamedTuple):
    """The previous answers with their times, newest first, and the counts of steps.

    Attributes:
      answers: D_1, D_2 …
      times: the time of each answer.
      made: the number of answers given since the start or the last restart.
      num_steps: the number of steps of the whole solve.
      left: the number of steps that are still to come.
    """

    answers: Float[Array, "k b *shape"]
    times: Float[Array, " k"]
    made: Int[Array, ""]
    num_steps: Int[Array, ""]
    left: StepsLeft

    def push(self, answer: Batch, t: Scalar) -> "History":
        """The history with the answer at t in front, and without the oldest answer."""
        answers = jnp.concatenate([answer[None], self.answers])[: len(self.answers)]
        times = jnp.concatenate([t[None], self.times])[: len(self.times)]
        return History(answers, times, self.made + 1, self.num_steps, self.left.after_a_step())

    def order(self, order: int, lower_order_below: Count = 0) -> Int[Array, ""]:
        """The order of the next step: the number of answers that exist, D_0 included, at most `order`.

        In a solve of fewer than `lower_order_below` steps the order also falls at the end: the last
        step has order 1, the last but one has order 2 at most, and so on.
        """
        # The steps left, the present one included, limit the order. A long solve has no such limit.
        left = jnp.where(self.num_steps < lower_order_below, self.left.number, order)
        return jnp.minimum(jnp.minimum(order, self.made + 1), left)


def start(x: Batch, length: int, num_steps: Count) -> History:
    """A history with room for `length` answers, and no answer yet."""
    answers, times = jnp.zeros((length, *x.shape), x.dtype), jnp.zeros(length, x.dtype)
    number = jnp.asarray(num_steps, jnp.int32)
    return History(answers, times, jnp.zeros((), jnp.int32), number, StepsLeft(number))


def usable(order: Count, nodes: Float[Array, " k"], gains: Float[Array, " n"]) -> Int[Array, ""]:
    """The largest order at most `order` whose nodes can be used; 1 where the step itself is infinite.

    A previous node must be finite and negative, and older nodes must be further from 0.
    """
    # A node is infinite where α = 0 at its time. The nodes are not ordered after a restart, which
    # leads back to times that the history already holds: equal nodes would divide by 0.
    before = jnp.isfinite(nodes) & (nodes < jnp.concatenate([jnp.zeros(1, nodes.dtype), nodes])[: len(nodes)])
    # cumprod is 1 up to the first bad node, so the sum counts the good nodes before it.
    number = jnp.sum(jnp.cumprod(before, dtype=jnp.int32), dtype=jnp.int32)
    return jnp.where(jnp.all(jnp.isfinite(gains)), jnp.minimum(order, number + 1), 1)


def weights(nodes: Float[Array, " k"], order: Count, gains: Float[Array, " n"]) -> Float[Array, " k"]:
    """w_i = ∫ ℓ_i for each previous node θ_i, i >= 1. Nodes from number `order` on have weight 0.

    ℓ_i is Lagrange's polynomial: 1 at θ_i, and 0 at the other nodes and at 0. `gains` are the
    integrals of 1, θ, θ² … over the step, with the kernel of the method. The integral of the
    polynomial P through all answers is then

        ∫ P = gains[0] D_0 + Σ_i w_i (D_i − D_0).
    """
    # `order` is traced, so the loops run over every node, and `where` leaves out the unused ones.
    every = [jnp.zeros((), nodes.dtype), *(nodes[i] for i in range(len(nodes)))]
    found = []
    for i in range(1, len(every)):
        # The coefficients of ℓ_i for 1, θ, θ² …
        polynomial = jnp.zeros_like(gains).at[0].set(1.0)
        for j in (j for j in range(len(every)) if j != i):
            # Multiply by (θ − θ_j)/(θ_i − θ_j). A roll of the coefficients multiplies by θ.
            gap = jnp.where(j < order, every[i] - every[j], 1.0)
            multiplied = jnp.roll(polynomial, 1).at[0].set(0.0) - every[j] * polynomial
            polynomial = jnp.where(j < order, multiplied / gap, polynomial)
        found.append(jnp.where(i < order, jnp.dot(polynomial, gains), 0.0))
    return jnp.stack(found) if found else nodes


def correction(given: Float[Array, " k"], answers: Float[Array, "k b *shape"], present: Batch) -> Batch:
    """Σ_i w_i (D_i − D_0): what the previous answers add to a step of order 1."""
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
    """A whole multistep step: (base + Σ_i w_i (D_i − D_0), the history with D_0 = `answer` at t).

    `base` is x_s for an answer that stays D_0 over the step, which is a step of order 1.
    """
    found = weights(nodes, usable(order, nodes, gains), gains)
    return base + correction(found, history.answers, answer), history.push(answer, t)
