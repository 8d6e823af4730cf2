"""Points that Optuna suggests from the results so far, stored in a journal file.

It needs the extra `sweeps`.

Source: Optuna, arXiv 1907.10902; TPE, Bergstra et al. 2011, Sec. 4.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from score_sde.config import build
from score_sde.internal.guarded import reading
from score_sde.sweeps.axes import canonical
from score_sde.sweeps.search import Axes, Point

JOURNAL = "optuna.journal"
POINT = "point"


@dataclasses.dataclass(frozen=True)
class Optuna:
    """The tree-structured Parzen estimator, and a pruner that stops trials with a poor metric.

    Attributes:
      num_trials: the number of trials over all runs of the sweep.
      seed: the random seed of the sampler. Suggestion n is a function of the seed, n and the
        results in the journal.
      num_startup_trials: the number of trials drawn at random, before the estimator is used.
      pruner: None, or {"name": "median" | "hyperband" | "successive_halving", and that pruner's
        arguments in Optuna}.
    """

    num_trials: int
    seed: int = 0
    num_startup_trials: int = 10
    pruner: Mapping[str, Any] | None = None

    adaptive = True

    def plan(self, axes: Axes, folder: pathlib.Path, goal: str) -> "Study":
        return Study(self, axes, folder, goal)


class Study:
    """An Optuna study in `folder`/optuna.journal.

    The trials of the study are the points, even if the process that asked for them has ended.

    Raises: ValueError for a damaged journal.
    """

    def __init__(self, search: Optuna, axes: Axes, folder: pathlib.Path, goal: str):
        optuna: Any
        try:
            import optuna
            import optuna.storages.journal
        except ImportError as error:
            raise ValueError(
                "search 'optuna' needs Optuna; install the extra: pip install 'score_sde[sweeps]'."
            ) from error
        self._optuna, self._search, self._axes = optuna, search, axes
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        folder.mkdir(parents=True, exist_ok=True)
        pruner, path = self._pruner(), folder / JOURNAL
        backend = optuna.storages.journal.JournalFileBackend(str(path))
        with reading(path, "the journal of a sweep", "move it away, and the sweep begins its suggestions anew"):
            self._study = optuna.create_study(
                storage=optuna.storages.JournalStorage(backend),
                study_name="sweep",
                direction=goal,
                load_if_exists=True,
                pruner=pruner,
            )

    def known(self) -> list[Point]:
        return [
            trial.user_attrs[POINT] for trial in self._study.get_trials(deepcopy=False) if POINT in trial.user_attrs
        ]

    def ask(self) -> Point | None:
        number = len(self._study.get_trials(deepcopy=False))
        distinct = len({canonical(point) for point in self.known()})
        # the second condition is for axes with fewer points than trials
        if distinct >= self._search.num_trials or number >= self._search.num_trials + 20:
            return None
        self._study.sampler = self._optuna.samplers.TPESampler(
            seed=self._search.seed * 1_000_003 + number,
            n_startup_trials=self._search.num_startup_trials,
            constant_liar=True,
        )
        trial = self._study.ask()
        try:
            point = {field: axis.suggest(trial, field) for field, axis in self._axes.items()}
        except ValueError as error:
            self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
            raise ValueError(
                f"The journal has other values on an axis; use another workdir for new axes. ({error})"
            ) from error
        trial.set_user_attr(POINT, point)
        return point

    def should_prune(self, point: Point, steps: Mapping[int, float]) -> bool:
        frozen = self._find(point)
        if self._search.pruner is None or frozen is None or frozen.state.is_finished():
            return False
        trial = self._optuna.trial.Trial(self._study, frozen._trial_id)
        prune = False
        for step in sorted(steps):
            if step not in frozen.intermediate_values:
                trial.report(steps[step], step)
                prune = prune or bool(trial.should_prune())
        return prune

    def tell(self, point: Point, state: str, value: float | None) -> None:
        """Tells Optuna a result. It also closes other suggestions of the same point.

        A point that was told before is added again with its new value.
        """
        states = self._optuna.trial.TrialState
        outcome = {"finished": states.COMPLETE, "pruned": states.PRUNED, "failed": states.FAIL}[state]
        same = [trial for trial in self._study.get_trials(deepcopy=False) if _is_at(trial, point)]
        values = [value] if outcome is states.COMPLETE else None
        for trial in same:
            if not trial.state.is_finished():
                self._study.tell(trial.number, values=values, state=outcome)
        if same and all(trial.state is states.FAIL for trial in same) and outcome is states.COMPLETE:
            given = {"params": same[0].params, "distributions": same[0].distributions, "user_attrs": {POINT: point}}
            self._study.add_trial(self._optuna.trial.create_trial(state=outcome, values=values, **given))

    def _find(self, point: Point) -> Any:
        trials = [trial for trial in self._study.get_trials(deepcopy=False) if _is_at(trial, point)]
        return trials[-1] if trials else None

    def _pruner(self) -> Any:
        pruners = self._optuna.pruners
        if self._search.pruner is None:
            return pruners.NopPruner()
        known = {
            "median": pruners.MedianPruner,
            "hyperband": pruners.HyperbandPruner,
            "successive_halving": pruners.SuccessiveHalvingPruner,
        }
        return build("search.pruner", known, self._search.pruner)


def _is_at(trial: Any, point: Point) -> bool:
    return POINT in trial.user_attrs and canonical(trial.user_attrs[POINT]) == canonical(point)
