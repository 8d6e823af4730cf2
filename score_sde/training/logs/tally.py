"""The sums of the metrics between two log lines. A checkpoint contains them."""

from collections.abc import Mapping
from typing import Any

import jax
from jaxtyping import Array

SKIPPED = "skipped"
LAST = ("learning_rate",)  # for these, a log line holds the value of the last step instead of a mean


class Tally:
    """The mean of each metric over the steps since the last log line, in float64, in the order of the steps.

    The learning rate is the value of the last step instead of a mean. A step whose "skipped" is 1
    counts in "skipped" and nowhere else. A checkpoint stores `saved()`. `Tally(saved)` after a
    resume then gives the same line, bit for bit, as a run without a stop.

    Args:
      saved: the result of `saved()`. None starts empty.
    """

    def __init__(self, saved: Mapping[str, Any] | None = None) -> None:
        saved = saved or {}
        self._sums: dict[str, float] = dict(saved.get("sums", {}))
        self._last: dict[str, float] = dict(saved.get("last", {}))
        self._steps, self._skipped = saved.get("steps", 0), saved.get(SKIPPED, 0)
        self._waiting: list[Mapping[str, Array]] = []

    def add(self, metrics: Mapping[str, Array]) -> None:
        """Adds a step, without waiting for it to be computed."""
        self._waiting.append(metrics)

    def saved(self) -> dict[str, Any]:
        """The sums as JSON, which keeps every bit of a float. Waits for the steps to be computed."""
        self._sum_up()
        return {"sums": dict(self._sums), "last": dict(self._last), "steps": self._steps, SKIPPED: self._skipped}

    def take(self) -> dict[str, float | int]:
        """The means, and the number of skipped steps if it is not 0. The sums start again from 0."""
        self._sum_up()
        means: dict[str, float | int] = {name: value / self._steps for name, value in self._sums.items()} | self._last
        if self._skipped:
            means[SKIPPED] = self._skipped
        self._sums, self._last, self._steps, self._skipped = {}, {}, 0, 0
        return means

    def _sum_up(self) -> None:
        for metrics in jax.device_get(self._waiting):
            values = {name: float(value) for name, value in metrics.items()}
            if values.pop(SKIPPED, 0.0):
                self._skipped += 1
                continue
            self._steps += 1
            self._last = {name: values.pop(name) for name in LAST if name in values}
            for name, value in values.items():
                self._sums[name] = self._sums.get(name, 0.0) + value
        self._waiting = []
