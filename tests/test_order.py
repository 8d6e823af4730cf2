"""The random order of the tests, which CI changes with every run."""

import itertools
from types import SimpleNamespace

from tests.order import in_random_order

ITEMS = [SimpleNamespace(nodeid=f"tests/test_{module}.py::test_{n}") for module in "abcde" for n in range(6)]


def modules(items):
    return [item.nodeid.partition("::")[0] for item in items]


def test_a_seed_gives_one_order_of_all_tests_and_of_any_part():
    order = in_random_order(ITEMS, "7")
    assert order == in_random_order(reversed(ITEMS), "7") != in_random_order(ITEMS, "8")
    assert sorted(order, key=ITEMS.index) == ITEMS and order != ITEMS
    assert in_random_order(ITEMS[:11:2], "7") == [item for item in order if item in ITEMS[:11:2]]


def test_modules_stay_together_and_are_shuffled_too():
    order = in_random_order(ITEMS, "7")
    grouped = [name for name, _ in itertools.groupby(modules(order))]
    assert len(grouped) == 5 and grouped != sorted(grouped)
    own = [[item.nodeid[-1] for item in order if modules([item]) == [name]] for name in grouped]
    assert len({tuple(part) for part in own}) == 5  # another order in each
