"""Which cases of a test the usual run keeps."""

from types import SimpleNamespace

import pytest

from tests.few import skip_the_others, spread


@pytest.mark.parametrize(
    ("total", "number", "kept"),
    [(5, 1, {0}), (5, 2, {0, 4}), (5, 3, {0, 2, 4}), (5, 5, {0, 1, 2, 3, 4}), (2, 9, {0, 1}), (1, 1, {0})],
)
def test_places_from_the_first_to_the_last(total, number, kept):
    assert spread(total, number) == kept
    assert all(len(spread(n, number)) == min(n, number) for n in range(1, 200))


class Case:
    """As much of pytest's item as few() sees."""

    def __init__(self, name: str, number: int | None, *keywords: str):
        self.path, self.nodeid, self.keywords, self.skipped = "test_x.py", f"test_x.py::{name}", keywords, False
        self.marker = None if number is None else SimpleNamespace(args=(number,))

    def get_closest_marker(self, name):
        return self.marker if name == "few" else None

    def add_marker(self, marker):
        self.skipped = marker == "skip"


def test_some_cases_of_each_test_stay_and_a_slow_case_is_none_of_them():
    cases = [Case("test_a[0]", 2, "slow"), *(Case(f"test_a[{i}]", 2) for i in range(1, 5))]
    others = [Case("test_b[0]", None), Case("test_b[1]", None), Case("test_c[0]", 1), Case("test_c[1]", 1)]
    skip_the_others([*cases, *others], "skip")
    assert [case.skipped for case in cases] == [False, False, True, True, False]
    assert [case.skipped for case in others] == [False, False, False, True]
