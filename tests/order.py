"""A random order of the tests, so that none depends on what ran before it."""

import hashlib
from collections.abc import Iterable

import pytest


def in_random_order(items: Iterable[pytest.Item], seed: str) -> list[pytest.Item]:
    """The tests sorted by digests of the seed with their module's name, then with their own.

    So a module's tests stay together, since many share its fixtures. All workers of xdist find the same order, which xdist
    asks for. A part of the tests, such as one folder, keeps the order that it has among all of them.
    """

    def place(item: pytest.Item) -> tuple[bytes, bytes]:
        module = item.nodeid.partition("::")[0]
        return _digest(f"{seed} {module}"), _digest(f"{seed} {item.nodeid}")

    return sorted(items, key=place)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
