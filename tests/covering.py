"""A product of cases, of which the usual run of the tests takes a part in which every value occurs, and --slow all."""

import itertools
import random
from collections import Counter
from collections.abc import Iterable

import pytest

SEED = 0


def covering(*axes: Iterable, times: int = 2) -> list:
    """All combinations as `pytest.param`s. Those beyond a part in which each value occurs at least `times` times are slow.

    The part is chosen greedily in a fixed random order. It has about `times` × (length of the longest axis) members, so that
    a new member of one kind costs `times` tests and not one for each member of the other kinds.
    """
    cases = list(itertools.product(*map(list, axes)))
    seen: Counter = Counter()
    soon = set()
    for case in random.Random(SEED).sample(cases, len(cases)):
        values = list(enumerate(case))
        if any(seen[value] < times for value in values):
            soon.add(case)
            seen.update(values)
    return [
        pytest.param(*case, marks=() if case in soon else pytest.mark.slow, id="-".join(map(str, case)))
        for case in cases
    ]
