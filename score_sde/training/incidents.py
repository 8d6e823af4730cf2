"""The handling of losses and gradients that are not finite."""

import pathlib
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from score_sde import parallel
from score_sde.config import sections
from score_sde.internal.files import write_json
from score_sde.training.agreement import everywhere, on_first_process
from score_sde.training.logs.logging import as_json
from score_sde.training.logs.tally import SKIPPED
from score_sde.training.state import TrainState

POLICIES = typing.get_args(sections.Policies)
FOLDER = "incidents"


class _Step(NamedTuple):
    step: int
    metrics: Mapping[str, Array]
    examples: dict[str, Array]


class FiniteGuard:
    """Stops the run at a step whose loss or gradient is not finite.

    With "stop" the run ends at the first such step, and with "skip" at the `max_skips`-th such step
    in a row. The training step itself leaves such a batch out (metrics["skipped"] is 1), so the
    state stays good in both cases. The guard looks at a step when the next step is running, or in
    `settle`. So the devices need not wait.

    Args:
      policy: "stop" or "skip".
      max_skips: the number of steps in a row that may be skipped.
      workdir: the folder of the run; reports go to incidents/step_XXXXXXXX.json; None: no report.
      describe: the task's facts of the examples -> columns of the report.
      last_checkpoint: names the newest checkpoint, for the message.
      in_a_row: the number of steps skipped just before a resume.
    """

    def __init__(
        self,
        policy: str,
        max_skips: int,
        workdir: pathlib.Path | None,
        describe: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]],
        last_checkpoint: Callable[[], int | None],
        in_a_row: int = 0,
    ) -> None:
        if policy not in POLICIES or max_skips < 0:
            raise ValueError(
                f"training.nonfinite needs one of {POLICIES} and training.max_skips >= 0, got {policy!r} and {max_skips}."
            )
        self._limit = max_skips if policy == "skip" else 0
        self._folder = None if workdir is None else workdir / FOLDER
        self._describe_facts, self._last_checkpoint = describe, last_checkpoint
        self._waiting: _Step | None = None
        self.in_a_row = in_a_row

    def add(self, step: int, metrics: Mapping[str, Array], examples: Mapping[str, Array], index: Array) -> None:
        """Checks the step before, and keeps this step for later."""
        self.settle()
        self._waiting = _Step(step, metrics, {**examples, "index": index})

    def settle(self) -> None:
        """Waits for the last step, and checks it.

        Raises: FloatingPointError where the run must stop.
        """
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return
        if not float(waiting.metrics[SKIPPED]):
            self.in_a_row = 0
            return
        self.in_a_row += 1
        if self.in_a_row > self._limit:
            self._stop(waiting)

    def check_parameters(self, state: TrainState) -> None:
        """Checks the parameters and averages before a save.

        A step with a finite loss and gradient may still move the parameters out of float32's range.

        Raises: FloatingPointError where a parameter or an average is not finite.
        """
        if not _all_finite((state.params, state.ema)):
            raise FloatingPointError(
                f"A parameter or average after step {int(state.step)} is not finite, so it was not saved. The last good "
                f"checkpoint is {self._last()}. Resume with a lower optimizer.learning_rate."
            )

    def _last(self) -> str:
        last = self._last_checkpoint()
        return "none" if last is None else f"step {last}"

    def _stop(self, waiting: _Step) -> None:
        step, metrics, examples = waiting
        examples = parallel.to_host(examples)
        numbers = {name: as_json(float(value)) for name, value in jax.device_get(dict(metrics)).items()}
        report = {
            "step": step,
            **numbers,
            "last_checkpoint": self._last_checkpoint(),
            "examples": self._describe(examples),
        }
        told = ""
        if self._folder is not None:
            path = self._folder / f"step_{step:08d}.json"
            on_first_process(lambda: write_json(path, report, indent=1, allow_nan=False))
            told = f"; {path} tells the examples, noise levels and losses of its batch"
        skipped = f" and {self.in_a_row} steps in a row were skipped" if self._limit else ""
        raise FloatingPointError(
            f"The loss or gradient of step {step} is not finite (loss {numbers['loss']}, gradient norm {numbers['grad_norm']})"
            f"{skipped}{told}. The last good checkpoint is "
            f"{self._last()}. Resume with training.nonfinite=skip to leave such batches out, or "
            "with a lower optimizer.learning_rate, a smaller optimizer.clip_norm or a larger t_min of the time sampler."
        )

    def _describe(self, examples: dict[str, np.ndarray]) -> list[dict[str, Any]]:
        """One dict for each example: index, the facts of the task, loss. Examples whose loss is not finite come first."""
        facts = {name: values for name, values in examples.items() if name not in ("index", "loss")}
        columns = {
            "index": examples["index"].tolist(),
            **{name: np.asarray(values).tolist() for name, values in self._describe_facts(facts).items()},
            "loss": np.asarray(examples["loss"], np.float32).tolist(),
        }
        rows = [
            {name: as_json(value) for name, value in zip(columns, row, strict=True)}
            for row in zip(*columns.values(), strict=True)
        ]
        return sorted(rows, key=lambda row: isinstance(row["loss"], float))


def _all_finite(tree: Any) -> bool:
    """Whether every number is finite on all processes. Each process checks the parts whose first copy it holds.

    The check runs on the host, where a save needs the numbers anyway. A compiled program with one
    reduction for each array took seconds to compile.
    """
    parts = (part for leaf in jax.tree.leaves(tree) for part in leaf.addressable_shards if part.replica_id == 0)
    return everywhere(all(np.isfinite(np.asarray(part.data)).all() for part in parts))
