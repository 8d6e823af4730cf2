"""Cases of a test that prove the same: the usual run takes some of them, and --slow takes all.

`@pytest.mark.few(2)` above a parametrized test keeps 2 of its cases: the first, the last, and between
them cases at equal distances in the order in which they are written. The other cases are skipped
as slow. So a new case adds nothing to the time of the usual run.
"""

from collections import defaultdict

import pytest


def spread(total: int, number: int) -> set[int]:
    """`number` places of `total`, from the first to the last at equal distances; the first alone where `number` is 1."""
    if number >= total:
        return set(range(total))
    return {0} if number == 1 else {round(i * (total - 1) / (number - 1)) for i in range(number)}


def skip_the_others(items: list[pytest.Item], skip: pytest.MarkDecorator) -> None:
    """Adds `skip` to the cases that few() leaves out. A case that is marked slow does not count as one of the few."""
    cases = defaultdict(list)
    for item in items:
        if item.get_closest_marker("few") and "slow" not in item.keywords:
            cases[item.path, item.nodeid.split("[")[0]].append(item)
    for of_one_test in cases.values():
        number = of_one_test[0].get_closest_marker("few").args[0]
        kept = spread(len(of_one_test), number)
        for place, item in enumerate(of_one_test):
            if place not in kept:
                item.add_marker(skip)
