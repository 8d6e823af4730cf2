"""Search: which points of the axes a sweep tries. These are all points, some points, or suggestions from results.

A point is {field: value}, with one value per axis.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from score_sde.sweeps.axes import Axis, Choice, draw

Point = dict[str, Any]
Axes = Mapping[str, Axis]


@runtime_checkable
class Plan(Protocol):
    """The points of one sweep, both known points and points still to be chosen. Trials report to it."""

    def known(self) -> list[Point]:
        """The points chosen so far, in this run or an earlier one."""

    def ask(self) -> Point | None:
        """The next point, or None when there will be no more."""

    def should_prune(self, point: Point, steps: Mapping[int, float]) -> bool:
        """Whether to stop a trial early, given the values of its metric so far, by step."""

    def tell(self, point: Point, state: str, value: float | None) -> None:
        """Reports that the trial at `point` is "finished" with a value, "pruned" or "failed"."""


@runtime_checkable
class Search(Protocol):
    """A way of choosing points."""

    adaptive: bool

    def plan(self, axes: Axes, folder: pathlib.Path, goal: str) -> Plan:
        """The plan of a sweep in `folder`. It continues from what an earlier run left there."""


@dataclasses.dataclass(frozen=True)
class Fixed:
    """A plan whose points are all known before the first trial."""

    points: list[Point]

    def known(self) -> list[Point]:
        return self.points

    def ask(self) -> Point | None:
        return None

    def should_prune(self, point: Point, steps: Mapping[int, float]) -> bool:
        return False

    def tell(self, point: Point, state: str, value: float | None) -> None:
        pass


@dataclasses.dataclass(frozen=True)
class Product:
    """Every value of every axis with every value of the other axes. The last axis changes fastest."""

    adaptive = False

    def plan(self, axes: Axes, folder: pathlib.Path, goal: str) -> Fixed:
        values = [_choices("product", field, axis) for field, axis in axes.items()]
        return Fixed([dict(zip(axes, point, strict=True)) for point in itertools.product(*values)])


@dataclasses.dataclass(frozen=True)
class Zip:
    """The first values of all axes together, then the second values, and so on."""

    adaptive = False

    def plan(self, axes: Axes, folder: pathlib.Path, goal: str) -> Fixed:
        values = {field: _choices("zip", field, axis) for field, axis in axes.items()}
        lengths = {field: len(choices) for field, choices in values.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"A zip needs as many values on each axis, got {lengths}.")
        return Fixed([dict(zip(axes, point, strict=True)) for point in zip(*values.values(), strict=True)])


@dataclasses.dataclass(frozen=True)
class Random:
    """Independent draws. Trial i is a function of (seed, i), so more trials do not change the first trials."""

    num_trials: int
    seed: int = 0

    adaptive = False

    def plan(self, axes: Axes, folder: pathlib.Path, goal: str) -> Fixed:
        draws = range(self.num_trials)
        return Fixed([{field: draw(axis, field, self.seed, i) for field, axis in axes.items()} for i in draws])


def _choices(search: str, field: str, axis: Axis) -> tuple[Any, ...]:
    if not isinstance(axis, Choice):
        raise ValueError(f"A {search} needs a list of values on each axis, got {axis} for {field!r}; search randomly.")
    return tuple(axis.values)
