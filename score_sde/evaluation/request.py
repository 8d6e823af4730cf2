"""The settings of an evaluation: the flags of `score-sde evaluate`, checked before anything is computed."""

import pathlib
import shlex
from typing import Any, NamedTuple

from score_sde.evaluation.metric_names import chosen_metrics
from score_sde.internal.programs import PROGRAM
from score_sde.metrics import METRICS, Metric
from score_sde.metrics.frechet import LEAST_RESAMPLES, RESAMPLES


class Evaluation(NamedTuple):
    """The settings of an evaluation, which are the flags of `score-sde evaluate`.

    Seed s means images s · num_samples … (s + 1) · num_samples − 1. `reference` is "train", "eval"
    or a file. `bootstrap` is the number of resamples for the interval of a Fréchet distance. 0 is
    the interval of a normal distribution, and None is 100 where it is cheap. `keep_samples` is
    None, "png" or "npz". `overrides` are the overrides with which the experiment was built.
    """

    metrics: tuple[str, ...]
    num_samples: int = 50_000
    seeds: tuple[int, ...] = (0,)
    batch_size: int = 64
    reference: str = "train"
    features: str = "inception"
    ema: str | None = None
    max_examples: int | None = None
    bootstrap: int | None = None
    keep_samples: str | None = None
    keep_features: bool = True
    overrides: tuple[str, ...] = ()

    def checked(self) -> "Evaluation":
        """The same settings, with the metrics' own names.

        Raises: ValueError for settings that cannot be evaluated.
        """
        chosen = chosen_metrics(self.metrics)
        metrics = tuple(chosen)
        if self.num_samples < 2 or self.batch_size < 1:
            raise ValueError(f"An evaluation needs num_samples >= 2 and batch_size >= 1, got {self}.")
        seeds = self.seeds
        if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0 or (max(seeds) + 1) * self.num_samples > 2**31:
            raise ValueError(
                f"--seeds needs different numbers s >= 0 with (s + 1) · num_samples <= 2³¹, got {list(seeds)}: seed s is "
                "images s · num_samples … (s + 1) · num_samples − 1."
            )
        if self.bootstrap and self.bootstrap < LEAST_RESAMPLES:
            raise ValueError(
                f"--bootstrap needs {LEAST_RESAMPLES} resamples or more for an interval of 95 %, or 0 for the interval of a "
                f"normal distribution, got {self.bootstrap}; {RESAMPLES} are usual."
            )
        if self.bootstrap is not None and not any(metric.bootstraps for metric in chosen.values()):
            takers = " and ".join(name for name, make in METRICS.items() if make().bootstraps)
            raise ValueError(f"--bootstrap is for {takers}, got --metrics={','.join(metrics)}; drop it.")
        if self.bootstrap and len(seeds) > 1:
            raise ValueError(
                f"--bootstrap is of one seed's samples, got --seeds={','.join(map(str, seeds))}, which have a spread of "
                "their own; give one seed, or drop --bootstrap."
            )
        return self._replace(metrics=metrics)

    @property
    def chosen(self) -> dict[str, Metric]:
        """The metrics by their names.

        Raises: ValueError for unknown names.
        """
        return chosen_metrics(self.metrics)

    @property
    def needs_samples(self) -> bool:
        """Whether any metric needs samples."""
        return any(metric.needs.outputs for metric in self.chosen.values())

    def command(self, workdir: pathlib.Path, step: int) -> str:
        """The command that makes the same row again."""
        flags: dict[str, Any] = {
            "workdir": workdir,
            "checkpoint": step,
            "ema": self.ema,
            "metrics": ",".join(self.metrics),
        }
        if self.needs_samples:
            flags |= {"num_samples": self.num_samples, "seeds": ",".join(map(str, self.seeds))}
            flags |= {"batch_size": self.batch_size, "reference": self.reference, "features": self.features}
            flags["bootstrap"] = self.bootstrap
        flags["max_examples"] = self.max_examples
        words = [f"--{name}={value}" for name, value in flags.items() if value is not None]
        return shlex.join([*PROGRAM, "evaluate", *words, *(f"--set={o}" for o in self.overrides)])
