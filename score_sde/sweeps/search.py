"""Which points of the axes a sweep tries: all of them, some of them, or what the results so far suggest.

A point is {field: value}, one value an axis.
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
    """The points of one sweep, known ones and ones still to be chosen; hears how the trials go."""

    def known(self) -> list[Point]:
        """The points chosen so far, in this run or an earlier one."""

    def ask(self) -> Point | None:
        """The next point; None when there will be no more."""

    def should_prune(self, point: Point, steps: Mapping[int, float]) -> bool:
        """Whether a trial with these values of the metric so far, by step, is not worth its end."""

    def tell(self, point: Point, state: str, value: float | None) -> None:
        """The trial at `point` is "finished" with a value, "pruned" or "failed"."""


@runtime_checkable
class Search(Protocol):
    """A way of choosing points."""

    adaptive: bool

    def plan(self, axes: Axes, folder: pathlib.Path, goal: str) -> Plan:
        """The plan of a sweep in `folder`, going on from what an earlier run left there."""


@dataclasses.dataclass(frozen=True)
class Fixed:
    """Points that are all known before the first trial."""

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
    """Every value of every axis with every value of the others; the last axis changes fastest."""

    adaptive = False

    def plan(self, axes: Axes, folder: pathlib.Path, goal: str) -> Fixed:
        values = [_choices("product", field, axis) for field, axis in axes.items()]
        return Fixed([dict(zip(axes, point, strict=True)) for point in itertools.product(*values)])


@dataclasses.dataclass(frozen=True)
class Zip:
    """The first values of all axes together, then the second ones, and so on."""

    adaptive = False

    def plan(self, axes: Axes, folder: pathlib.Path, goal: str) -> Fixed:
        values = {field: _choices("zip", field, axis) for field, axis in axes.items()}
        lengths = {field: len(choices) for field, choices in values.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"A zip needs as many values on each axis, got {lengths}.")
        return Fixed([dict(zip(axes, point, strict=True)) for point in zip(*values.values(), strict=True)])


@dataclasses.dataclass(frozen=True)
class Random:
    """Independent draws; trial i is a function of (seed, i), so that more trials leave the first as they are."""

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
