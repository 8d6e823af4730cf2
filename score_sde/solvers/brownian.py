"""The noise of the reverse SDE from one path, so that the noises of short steps add up to the noise of a long step.

In the time λ = log(α/σ), the noise of a step in units of σ is

    N = Z(λ_s) − e^{−(λ_s − λ_t)} Z(λ_t).

Z is a stationary Ornstein–Uhlenbeck process of variance 1 and rate 1: Z = W(v)/√v for a Brownian
motion W in v = e^{−2λ} = (σ/α)². SDE-DPM-Solver and SA-Solver have a rate η, their amount of noise.
A rate η in the time λ is the rate 1 in the time ηλ.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, UInt

from score_sde.sdes.base import SDE
from score_sde.solvers import noise
from score_sde.solvers.base import Batch, Keys, Scalar

REACH = 32.0  # Z is drawn for times in [−REACH, REACH]; outside, Z keeps its value at the nearer end
DEPTH = 21  # halvings of that interval; steps shorter than 3e-5 share a part of their noise


class Path(NamedTuple):
    """The seeds of each image's path, and whether they have been drawn.

    The seeds come from the key of the first step.
    """

    seeds: UInt[Array, "b 2"]
    begun: Bool[Array, ""]


def init(x: Batch, consistent: bool) -> Any:
    """The carry of a solver's noise. It is () where every step draws new noise."""
    return Path(jnp.zeros((x.shape[0], 2), jnp.uint32), jnp.zeros((), bool)) if consistent else ()


def increments(
    key: Keys, sde: SDE, x: Batch, path: Any, levels: tuple[Scalar, ...], gaps: tuple[Scalar, ...]
) -> tuple[tuple[Batch, ...], Any]:
    """(N from λ = levels[0] to each of levels[1:], path), where N has the variance 1 − e^{−2 gap}.

    `levels` must increase. `gaps` are the differences to levels[0]. The caller gives both, because
    levels may be infinite and their differences may lose digits. If the last gap is 0, nothing is
    drawn. Without a `Path` the noise is new in every step. It still adds up over the levels of this
    step.
    """
    if not isinstance(path, Path):
        return _independent(key, sde, x, gaps), path
    path = _begin(key, path)

    def along():
        first, *others = (ornstein_uhlenbeck(path.seeds, sde, x, level) for level in levels)
        return tuple(other - jnp.exp(-gap) * first for other, gap in zip(others, gaps, strict=True))

    return jax.lax.cond(gaps[-1] == 0, lambda: tuple(jnp.zeros_like(x) for _ in gaps), along), path


def _independent(key, sde, x, gaps):
    reached, last, total = [], jnp.zeros_like(gaps[0]), jnp.zeros_like(x)
    for index, gap in enumerate(gaps):
        # Ornstein–Uhlenbeck: the earlier noise decays over the piece, and new noise is added.
        piece = gap - last
        drawn = noise.scaled(noise.fold_in(key, index), sde, x, jnp.sqrt(-jnp.expm1(-2 * piece)))
        total, last = jnp.exp(-piece) * total + drawn, gap
        reached.append(total)
    return tuple(reached)


def _begin(key: Keys, path: Path) -> Path:
    keys = noise.keys_of_images(key, path.seeds.shape[0])
    drawn = jax.vmap(lambda k: jax.random.bits(k, (2,), jnp.uint32))(keys)
    return Path(jnp.where(path.begun, path.seeds, drawn), jnp.ones((), bool))


def ornstein_uhlenbeck(seeds: UInt[Array, "b 2"], sde: SDE, x: Batch, time: Scalar) -> Batch:
    """Z(time) with the shape of `x`. The same seeds give the same path, in any order of the times.

    The path is found by halving [−REACH, REACH]. Given Z_a and Z_b at two ends a distance 2d apart,
    the middle is N((Z_a + Z_b)/(2 cosh d), tanh d). Each node of this tree has its own key. In the
    last interval, which is not halved further, Z(time) is drawn given both ends.

    Cost: DEPTH + 3 draws.
    Source: virtual Brownian trees, Li et al., arXiv 2001.01328, App. E; here for the
      Ornstein–Uhlenbeck bridge.
    """
    base = jax.random.key(0)
    keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.fold_in(base, seed[0]), seed[1]))(seeds)
    time = jnp.clip(time, -REACH, REACH)

    def draw(node):
        return noise.like(noise.fold_in(keys, node), sde, x)

    def halve(_, state):
        node, low, half, first, last = state
        half = 0.5 * half
        middle = (first + last) / (2 * jnp.cosh(half)) + jnp.sqrt(jnp.tanh(half)) * draw(node)
        right = time >= low + half
        first, last = jnp.where(right, middle, first), jnp.where(right, last, middle)
        return 2 * node + right.astype(jnp.int32), jnp.where(right, low + half, low), half, first, last

    low, length = jnp.full_like(time, -REACH), jnp.full_like(time, 2 * REACH)
    # The two ends are 2 REACH = 64 apart, so they are independent to rounding. Keys 0 and 1 belong
    # to the ends, and the inner nodes are numbered from 2: node n has the children 2n and 2n + 1.
    state = jnp.asarray(2, jnp.int32), low, length, draw(0), draw(1)
    node, low, length, first, last = jax.lax.fori_loop(0, DEPTH, halve, state)
    # The bridge between both ends: its mean and variance are ratios of sinh.
    after, before = time - low, low + length - time
    whole = jnp.sinh(length)
    mean = (jnp.sinh(before) * first + jnp.sinh(after) * last) / whole
    return mean + jnp.sqrt(2 * jnp.sinh(after) * jnp.sinh(before) / whole) * draw(node)
