"""Condition dropout, so that one network learns the conditional and the unconditional model.

Source: Ho and Salimans, arXiv 2207.12598, Alg. 1.
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Key

from score_sde.internal.broadcast import expand_like
from score_sde.internal.companions import owner_of

Condition = Mapping[str, Array]
Rates = float | Mapping[str, float]
Keep = dict[str, Bool[Array, " b"]]


def check_rates(rates: Rates, names: Sequence[str]) -> None:
    """Raises ValueError unless all rates are in [0, 1) and belong to conditions of the data."""
    by_name = rates if isinstance(rates, Mapping) else dict.fromkeys(names, rates)
    unknown = sorted(set(by_name) - set(names))
    if unknown:
        raise ValueError(
            f"condition_dropout needs names of conditions that the data have, {sorted(names)}, got {unknown}; one number "
            "drops all conditions of an example together."
        )
    if not isinstance(rates, Mapping) and rates and not names:
        raise ValueError(
            f"condition_dropout={rates} needs data with conditions, and these have none; set it to 0, or give the data "
            "labels or conditions."
        )
    wrong = {name: rate for name, rate in by_name.items() if not 0 <= rate < 1}
    if wrong:
        raise ValueError(f"condition_dropout needs rates with 0 <= rate < 1, got {wrong}.")


def dropped_names(condition: Condition) -> list[str]:
    """The names that may have a rate: all but the masks and lengths, which follow their sequences."""
    shapes = {name: values.shape[1:] for name, values in condition.items()}
    return [name for name in shapes if owner_of(name, shapes) is None]


def draw_keep(key: Key[Array, ""], rates: Rates, condition: Condition) -> Keep:
    """For each condition, whether each example keeps it. The probability of False is the condition's rate.

    If `rates` is one number, all conditions of an example are dropped together. If `rates` is a
    mapping, each condition is dropped independently. The mask or the length of a sequence is
    dropped with its sequence.
    """
    if not isinstance(rates, Mapping):
        size = len(next(iter(condition.values()))) if condition else 0
        together = jax.random.uniform(key, (size,)) >= rates
        return dict.fromkeys(condition, together)
    names = sorted(rates)
    keys = jax.random.split(key, max(len(names), 1))
    keep = {name: jax.random.uniform(keys[i], condition[name].shape[:1]) >= rates[name] for i, name in enumerate(names)}
    shapes = {name: values.shape[1:] for name, values in condition.items()}
    owners = {name: owner_of(name, shapes) for name in shapes}
    return keep | {name: keep[owner] for name, owner in owners.items() if owner is not None and owner in keep}


def drop(condition: Condition, keep: Keep, null: Callable[[Condition], Condition]) -> Condition:
    """The condition, replaced by `null(condition)` in the rows where `keep` is False."""
    if not keep:
        return condition
    absent = null(condition)
    kept = {name: expand_like(keep[name], condition[name]) for name in keep}
    return {**condition, **{name: jnp.where(kept[name], condition[name], absent[name]) for name in keep}}
