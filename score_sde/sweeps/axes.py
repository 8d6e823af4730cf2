"""Axes of a sweep: the values that a field of the config may take, and how one is drawn."""

import dataclasses
import json
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from score_sde.config import build


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of the given values. Sections ({…}) are allowed."""

    values: Sequence[Any]

    def __post_init__(self):
        texts = [canonical(value) for value in self.values]
        if not texts or len(set(texts)) < len(texts):
            raise ValueError(f"An axis needs values that differ, got {list(self.values)}.")

    def sample(self, rng: np.random.Generator) -> Any:
        return self.values[int(rng.integers(len(self.values)))]

    def suggest(self, trial: Any, name: str) -> Any:
        """A value that Optuna suggests. Optuna stores categories as text, so a category may be a section."""
        return json.loads(trial.suggest_categorical(name, [canonical(value) for value in self.values]))


@dataclasses.dataclass(frozen=True)
class Uniform:
    """Real numbers in [low, high]. With `log`, they are uniform in their logarithm.

    They have four digits, so that they stay the same when a user types them.
    """

    low: float | int
    high: float | int
    log: bool = False

    def __post_init__(self):
        _check_range(self.low, self.high, self.log)

    def sample(self, rng: np.random.Generator) -> float:
        if self.log:
            return _four_digits(math.exp(rng.uniform(math.log(self.low), math.log(self.high))))
        return _four_digits(rng.uniform(self.low, self.high))

    def suggest(self, trial: Any, name: str) -> float:
        return _four_digits(trial.suggest_float(name, self.low, self.high, log=self.log))


@dataclasses.dataclass(frozen=True)
class Int:
    """Whole numbers from low to high, both included. With `log`, they are uniform in their logarithm."""

    low: int
    high: int
    log: bool = False

    def __post_init__(self):
        _check_range(self.low, self.high, self.log)

    def sample(self, rng: np.random.Generator) -> int:
        if not self.log:
            return int(rng.integers(self.low, self.high + 1))
        value = math.exp(rng.uniform(math.log(self.low - 0.5), math.log(self.high + 0.5)))
        return min(max(round(value), self.low), self.high)

    def suggest(self, trial: Any, name: str) -> int:
        return trial.suggest_int(name, self.low, self.high, log=self.log)


def log_uniform(low: float | int, high: float | int) -> Uniform:
    """Real numbers in [low, high], uniform in their logarithm."""
    return Uniform(low, high, log=True)


Axis = Choice | Uniform | Int
AXES: dict[str, Callable[..., Axis]] = {"choice": Choice, "uniform": Uniform, "log_uniform": log_uniform, "int": Int}


def build_axis(field: str, given: Any) -> Axis:
    """The axis of a list (a Choice), or of {"name": "log_uniform", "low": …, "high": …} (that member of AXES).

    Raises: ValueError for anything else.
    """
    if isinstance(given, Mapping):
        return build(f"axes[{field!r}]", AXES, given)
    if isinstance(given, Sequence) and not isinstance(given, str):
        return Choice(tuple(given))
    raise ValueError(f"axes[{field!r}] needs a list of values or one of {sorted(AXES)}, got {given!r}.")


def draw(axis: Axis, field: str, seed: int, index: int) -> Any:
    """The `index`-th value of an axis.

    It is a function of (seed, index, field), so more trials do not change the first trials.
    """
    return axis.sample(np.random.default_rng([seed, index, zlib.crc32(field.encode())]))


def canonical(value: Any) -> str:
    """A value as JSON with sorted names. Tuples and lists are equal."""
    return json.dumps(value, sort_keys=True)


def _four_digits(value: float) -> float:
    return float(f"{value:.4g}")


def _check_range(low: float | int, high: float | int, log: bool) -> None:
    if not low < high or (log and low <= 0):
        raise ValueError(f"An axis needs low < high, and 0 < low on a logarithmic one, got {low=}, {high=}, {log=}.")
