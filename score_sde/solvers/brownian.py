"""The noise of the reverse SDE along one path, so that short steps add up to long ones.

In the time λ = log(α/σ) the noise of a step, in units of σ, is N = Z(λ_s) − e^{−(λ_s − λ_t)} Z(λ_t), with Z a stationary
Ornstein–Uhlenbeck process of variance 1 and rate 1: W(v)/√v for a Brownian motion W in v = e^{−2λ} = (σ/α)². A rate η,
the amount of noise in SDE-DPM-Solver and SA-Solver, is the same in the time ηλ.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, UInt

from score_sde.sdes.base import SDE
from score_sde.solvers import noise
from score_sde.solvers.base import Batch, Keys, Scalar

REACH = 32.0  # Z is drawn for times in [−REACH, REACH]; beyond, it has the value at the end
DEPTH = 21  # halvings of that interval: steps below 3e-5 share their noise in part


class Path(NamedTuple):
    """Seeds of each image's path, and whether they have been drawn; they come from the key of the first step."""

    seeds: UInt[Array, "b 2"]
    begun: Bool[Array, ""]


def init(x: Batch, consistent: bool) -> Any:
    """The carry of a solver's noise: () where every step draws anew."""
    return Path(jnp.zeros((x.shape[0], 2), jnp.uint32), jnp.zeros((), bool)) if consistent else ()


def increments(
    key: Keys, sde: SDE, x: Batch, path: Any, levels: tuple[Scalar, ...], gaps: tuple[Scalar, ...]
) -> tuple[tuple[Batch, ...], Any]:
    """(N from λ = levels[0] to each of levels[1:], increasing; path). N has the variance 1 − e^{−2 gap}.

    `gaps` are the differences to levels[0], given besides because levels may be infinite, and have lost digits. Where the
    last gap is 0, nothing is drawn. Without a `Path` the pieces between are drawn anew, and still add up within this step.
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
        piece = gap - last
        drawn = noise.scaled(noise.fold_in(key, index), sde, x, jnp.sqrt(-jnp.expm1(-2 * piece)))
        total, last = jnp.exp(-piece) * total + drawn, gap
        reached.append(total)
    return tuple(reached)


def _begin(key: Keys, path: Path) -> Path:
    keys = key if key.ndim else jax.random.split(key, path.seeds.shape[0])
    drawn = jax.vmap(lambda k: jax.random.bits(k, (2,), jnp.uint32))(keys)
    return Path(jnp.where(path.begun, path.seeds, drawn), jnp.ones((), bool))


def ornstein_uhlenbeck(seeds: UInt[Array, "b 2"], sde: SDE, x: Batch, time: Scalar) -> Batch:
    """Z(time) like `x`: the same path for the same seeds, whatever is asked for before or after.

    Halving [−REACH, REACH]: the middle given the ends, a distance 2d apart, is N((Z_a + Z_b)/(2 cosh d), tanh d), with a
    key of its own in the tree; at last `time` itself within an interval that is not halved further.

    Costs DEPTH + 3 draws. Source: the idea of virtual Brownian trees, Li et al., arXiv 2001.01328, App. E, here for the
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
    # Ends 64 apart are independent. Nodes are numbered from 2: 0 and 1 are the ends.
    state = jnp.asarray(2, jnp.int32), low, length, draw(0), draw(1)
    node, low, length, first, last = jax.lax.fori_loop(0, DEPTH, halve, state)
    after, before = time - low, low + length - time
    whole = jnp.sinh(length)
    mean = (jnp.sinh(before) * first + jnp.sinh(after) * last) / whole
    return mean + jnp.sqrt(2 * jnp.sinh(after) * jnp.sinh(before) / whole) * draw(node)
