"""Random numbers that are a pure function of (seed, counters), with the same bits on every machine.

z -> mix(z) is the finalizer of SplitMix64. fold(key, i) = mix(key + (i + 1) γ), with γ = 2⁶⁴/φ, is
item i of the SplitMix64 sequence that starts at `key`. To fold the result again gives keys of keys,
as `jax.random.fold_in` does.

numpy's own generators do not promise the same stream in the next version, and have no random access
by counter. They also cost more: Philox takes 1.3 ms, and this code 0.5 ms, for the 393,216 uniforms
of a CIFAR-10 batch of 128.

Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014), Fig. 16;
  mix: Stafford's 13.
"""

import functools
import math

import numpy as np
from jaxtyping import Float, Int64, Integer, UInt64

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
Keys = UInt64[np.ndarray, "*b"]


def seed_key(seed: int) -> UInt64[np.ndarray, " 1"]:
    """The key of a run's seed.

    Raises: ValueError unless 0 <= seed < 2⁶⁴.
    """
    if not 0 <= seed < 2**64:
        raise ValueError(f"A data seed needs 0 <= seed < 2**64, got {seed}.")
    return _mix(np.array([seed], np.uint64) + _GAMMA)


def fold(keys: Keys, counters: Integer[np.ndarray, "*c"] | int) -> UInt64[np.ndarray, "*bc"]:
    """mix(key + (counter + 1) γ) mod 2⁶⁴, broadcast over both arguments."""
    counters = np.atleast_1d(np.asarray(counters, np.uint64))  # 0-d arrays warn when they wrap around
    return _mix(keys + (counters + np.uint64(1)) * _GAMMA)


def uniforms(keys: UInt64[np.ndarray, " b"], count: int) -> Float[np.ndarray, "b count"]:
    """u in [0, 1) with 53 bits: `count` numbers for each key, in float64."""
    words = fold(keys[:, None], np.arange(count))
    return (words >> np.uint64(11)) * 2.0**-53


def uniforms_f32(keys: UInt64[np.ndarray, " b"], count: int) -> Float[np.ndarray, "b count"]:
    """u in {0, …, 2²⁴ − 1}/2²⁴: `count` float32 numbers for each key, two from every word."""
    words = fold(keys[:, None], np.arange(math.ceil(count / 2)))
    # Little-endian, so that every machine has the same order.
    halves = words.astype("<u8", copy=False).view("<u4")[:, :count]
    return (halves >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def normals(keys: UInt64[np.ndarray, " b"], count: int) -> Float[np.ndarray, "b count"]:
    """z ~ N(0, 1): z = √(−2 ln(1 − u₁)) (cos 2πu₂, sin 2πu₂), the Box–Muller pairs of `uniforms`."""
    u = uniforms(keys, 2 * math.ceil(count / 2)).reshape(len(keys), -1, 2)
    radius = np.sqrt(-2 * np.log1p(-u[..., 0]))
    angle = 2 * np.pi * u[..., 1]
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    return pairs.reshape(len(keys), -1)[:, :count]


@functools.lru_cache(maxsize=4)
def permutation(length: int, seed: int, epoch: int) -> Int64[np.ndarray, " n"]:
    """A random order of 0, …, length − 1, by the hash of (seed, epoch, i). Each epoch has a new order.

    It takes 3 ms for 50,000 examples and 0.14 s for 1.3 million. The last few orders are cached.
    """
    keys = fold(fold(seed_key(seed), epoch), np.arange(length))
    order = np.argsort(keys, kind="stable")
    order.setflags(write=False)
    return order


def _mix(z: Keys) -> Keys:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
