"""The part of a product of cases that runs without --slow."""

from collections import Counter

from tests.covering import covering


def test_every_value_is_in_the_part_and_the_part_is_small():
    first, second = [f"a{i}" for i in range(12)], [f"b{i}" for i in range(5)]
    params = covering(first, second, times=2)
    assert len(params) == 60 and len({param.id for param in params}) == 60
    soon = [param.values for param in params if not param.marks]
    for axis in (0, 1):
        counts = Counter(values[axis] for values in soon)
        assert len(counts) == (12, 5)[axis] and min(counts.values()) >= 2
    assert len(soon) <= 30


def test_the_part_is_the_same_in_every_process():
    assert [p.marks == () for p in covering("abc", "xyz")] == [p.marks == () for p in covering("abc", "xyz")]
