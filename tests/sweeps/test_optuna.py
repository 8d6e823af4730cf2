"""Optuna's suggestions: resumed from the journal, told of every result, and pruned."""

import json
import os
import signal
import subprocess
import sys

import pytest

from score_sde.sweeps import Queue, build_sweep, local
from score_sde.sweeps.optuna_search import Optuna
from score_sde.sweeps.status import rows
from tests.sweeps.several import DRIVE, ENVIRONMENT, described, run, starts, states, until

pytest.importorskip("optuna", reason="needs the extra sweeps")
AXES = {"optimizer.learning_rate": {"name": "log_uniform", "low": 1e-6, "high": 1.0}, "network.width": [16, 32]}


def searched(number=12, axes=AXES, **fields) -> dict:
    search = {"name": "optuna", "num_trials": number, "num_startup_trials": 5, "seed": 3, **fields.pop("search", {})}
    return described(search=search, axes=axes, **fields)


@pytest.mark.slow
def test_suggestions_approach_the_best_and_do_not_depend_on_stops(tmp_path):
    """The loss is (log10 rate + 3)²: drawn at random between 10⁻⁶ and 1, its distance from −3 would be 1.5 on average."""
    queue, _ = run(build_sweep(searched()), tmp_path / "whole", slots=1)
    assert states(queue) == ["finished"] * 12
    run(build_sweep(searched(4)), tmp_path / "parts", slots=1)
    run(build_sweep(searched(9)), tmp_path / "parts", slots=1)
    parts, _ = run(build_sweep(searched()), tmp_path / "parts", slots=1)
    assert list(parts.trials) == list(queue.trials)
    assert len(parts.plan._study.get_trials()) == 12  # no suggestion was made twice
    best = rows(list(queue.trials.values()), build_sweep(searched()).metric, alive=False)[0]
    assert abs(best.value - 0.25) < 0.3 and best.state == "finished"


def test_a_killed_search_goes_on_with_the_trials_that_it_had_begun(tmp_path):
    fields = searched(6, steps=20, environment={"FAKE_SECONDS": "0.02"})
    (tmp_path / "sweep.json").write_text(json.dumps(fields))
    folder = tmp_path / "sweep"
    process = subprocess.Popen([*DRIVE, str(tmp_path / "sweep.json"), str(folder), "2"], env=ENVIRONMENT)
    until(lambda: len(list(folder.glob("trials/*/metrics.jsonl"))) >= 2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    begun = {path.parent.name for path in folder.glob("trials/*/trial.json")}
    queue, _ = run(build_sweep(fields), folder)
    assert states(queue) == ["finished"] * 6 and begun <= set(queue.trials)
    study = queue.plan._study
    assert [trial.state.name for trial in study.get_trials()] == ["COMPLETE"] * 6


def test_a_bad_trial_is_pruned_and_not_run_again(tmp_path, monkeypatch):
    """The first trials are good and set the median; one that starts far above it stops early."""
    monkeypatch.setattr(local, "PRUNE_SECONDS", 0.0)
    pruner = {"name": "median", "n_startup_trials": 2, "n_warmup_steps": 2}
    axes = {"optimizer.learning_rate": [1e-3, 2e-3, 1e-6]}
    fields = searched(3, axes, steps=60, environment={"FAKE_SECONDS": "0.05"}, search={"pruner": pruner, "seed": 0})
    good = {**fields, "environment": {}}
    queue = Queue(build_sweep(good), tmp_path)
    plan = queue.plan
    for rate in (1e-3, 2e-3):  # what two finished trials had reported
        point = {"optimizer.learning_rate": rate}
        trial = plan._study.ask(fixed_distributions={})
        trial.set_user_attr("point", point)
        assert not plan.should_prune(point, {step: 1.0 / step for step in range(1, 61)})
        plan.tell(point, "finished", 1 / 60)
    assert plan.should_prune(point, {1: 1e9}) is False  # it has ended
    bad = {"optimizer.learning_rate": 1e-6}
    trial = plan._study.ask(fixed_distributions={})
    trial.set_user_attr("point", bad)
    queue, printed = run(build_sweep(fields), tmp_path / ".", slots=3)
    name = next(name for name, trial in queue.trials.items() if trial.point == bad)
    ended = queue.trials[name]
    assert ended.record().state == "pruned" and ended.step < 60 and f"{name}: pruned at step" in printed
    assert plan._study.get_trials()[2].state.name == "PRUNED"
    starts_before = len(starts(ended))
    run(build_sweep(fields), tmp_path, slots=3)
    assert len(starts(ended)) == starts_before


def test_a_failed_trial_counts_again_once_it_is_mended(tmp_path):
    axes = {"optimizer.learning_rate": [1e-3, 1e-2]}
    queue, _ = run(build_sweep(searched(2, axes, environment={"FAKE_FAIL": "0.01"})), tmp_path)
    assert sorted(states(queue)) == ["failed", "finished"]
    queue, _ = run(build_sweep(searched(2, axes)), tmp_path, retry_failed=True)
    assert states(queue) == ["finished"] * 2
    outcomes = sorted(trial.state.name for trial in queue.plan._study.get_trials())
    assert outcomes.count("COMPLETE") >= 2 and "RUNNING" not in outcomes


def test_fewer_points_than_trials(tmp_path):
    """The search ends, though it can only repeat itself."""
    queue, _ = run(build_sweep(searched(5, {"optimizer.learning_rate": [1e-3, 1e-2]})), tmp_path)
    assert len(queue.trials) == 2 and states(queue) == ["finished"] * 2


def test_a_journal_of_other_axes(tmp_path):
    run(build_sweep(searched(2, {"optimizer.learning_rate": [1e-3, 1e-2, 1e-1]})), tmp_path)
    other = build_sweep(searched(3, {"optimizer.learning_rate": [1e-3, 1e-2]}))
    with pytest.raises(ValueError, match="The journal has other values on an axis; use another workdir"):
        Queue(other, tmp_path).next()


@pytest.mark.parametrize("line", [b"[]", b"7", b"[" * 5000, b"\xff\xfe", b'{"op_code": 99}'])
def test_a_damaged_journal(line, tmp_path):
    path = tmp_path / "optuna.journal"
    Optuna(num_trials=1).plan({}, tmp_path, "minimize")
    path.write_bytes(path.read_bytes() + line + b"\n" + path.read_bytes())
    with pytest.raises(
        ValueError, match=r"optuna.journal cannot be read as the journal of a sweep .*; move it away, and"
    ):
        Optuna(num_trials=1).plan({}, tmp_path, "minimize")


def test_without_optuna(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ValueError, match=r"needs Optuna; install the extra: pip install 'score_sde\[sweeps\]'"):
        Optuna(num_trials=1).plan({}, tmp_path, "minimize")
