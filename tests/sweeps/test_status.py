"""The table, the plot and the metric."""

import json
import math
import shlex

import numpy as np
import pytest

from score_sde.sweeps import Metric, Queue, Record, build_sweep
from score_sde.sweeps import pictures as pictures_module
from score_sde.sweeps.metric import last_step
from score_sde.sweeps.pictures import metric_against_axes
from score_sde.sweeps.run import Options, run_sweep, show_commands, show_status
from score_sde.sweeps.spec import TRAIN
from score_sde.sweeps.status import Row, labels, rows, table
from score_sde.sweeps.trial import make_trial
from tests.sweeps.several import described, fake_sweep, run


def write_metrics(folder, values, name="loss"):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"step": 10 * (i + 1), name: value}) for i, value in enumerate(values)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n" + '{"step": 99, "half')
    return folder


def test_reductions_of_a_logged_metric(tmp_path):
    folder = write_metrics(tmp_path, [3.0, 1.0, 2.0, 6.0])
    assert Metric("loss").read(folder) == 6.0 and Metric("loss", "min").read(folder) == 1.0
    assert Metric("loss", "mean", last=3).read(folder) == 3.0 and Metric("loss", "max", last=2).read(folder) == 6.0
    assert last_step(folder) == 40 and last_step(tmp_path / "nothing") == 0
    assert Metric("loss", "mean", last=3).title == "loss (mean of last 3)"


def test_a_number_in_a_json_file(tmp_path):
    (tmp_path / "likelihood.json").write_text(json.dumps({"mean": 1.5, "per": {"level": [1.0, 2.0, 6.0]}, "ema": None}))
    assert Metric("likelihood.json:mean").read(tmp_path) == 1.5
    assert Metric("likelihood.json:per.level.2").read(tmp_path) == 6.0
    assert Metric("likelihood.json:per.level", "mean").read(tmp_path) == 3.0
    assert Metric("likelihood.json:mean", error="likelihood.json:per.level.0").read_error(tmp_path) == 1.0
    with pytest.raises(ValueError, match="needs 'means' in .*Did you mean 'mean'"):
        Metric("likelihood.json:means").read(tmp_path)
    with pytest.raises(ValueError, match="needs a number, got None"):
        Metric("likelihood.json:ema").read(tmp_path)
    with pytest.raises(ValueError, match=r"needs the file .*other.json, which is not there; which command of `then`"):
        Metric("other.json:mean").read(tmp_path)


def test_metrics_that_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'los' is not in .*which has \['loss'\]. Did you mean 'loss'"):
        Metric("los").read(write_metrics(tmp_path, [1.0]))
    with pytest.raises(ValueError, match="A metric needs reduce in .*got 'median', 'minimize'"):
        Metric("loss", "median")
    with pytest.raises(ValueError, match="A metric needs last >= 1, or None for all values, got 0"):
        Metric("loss", last=0)


def test_the_table_ranks_and_shows_what_failed(tmp_path):
    sweep = fake_sweep(rates=(1e-2, 1e-3, 1e-1), environment={"FAKE_FAIL": "0.1"})
    queue, _ = run(sweep, tmp_path)
    found = rows(list(queue.trials.values()), sweep.metric, alive=False)
    assert [row.state for row in found] == ["finished", "finished", "failed"]
    assert [row.value for row in found] == [0.25, 1.25, None]
    lines = table(found, sweep.metric).splitlines()
    assert len({len(line) for line in lines[:5]}) == 1 and lines[1].startswith("|---")
    assert [cell.strip() for cell in lines[2].split("|")[1:5]] == ["0.001", "0.25", "finished", "4/4"]
    assert lines[5].endswith("failed: exit code 3: Error: the learning rate is cursed.")
    best_first = rows(list(queue.trials.values()), Metric("loss", goal="maximize"), alive=False)
    assert [row.value for row in best_first] == [1.25, 0.25, None]


def test_a_run_that_was_killed_is_shown_as_stopped(tmp_path):
    sweep = fake_sweep(rates=[1e-3])
    (trial,) = Queue(sweep, tmp_path).trials.values()
    write_metrics(trial.folder, [2.0])
    trial.write_record(Record(state="running"))
    assert rows([trial], sweep.metric, alive=False)[0].state == "stopped"
    assert rows([trial], sweep.metric, alive=True)[0].state == "running"
    (trial.folder / "job.txt").write_text("17_0\n")
    assert rows([trial], sweep.metric, alive=False)[0].state == "running"


def test_a_metric_that_finished_trials_lack(tmp_path, capsys):
    sweep = fake_sweep(rates=[1e-3], metric="eval/eps_error")
    _, printed = run(sweep, tmp_path)
    assert "finished but The metric 'eval/eps_error' is not in" in printed
    with pytest.raises(ValueError, match=r"which has \['loss'\]"):
        show_status(sweep, tmp_path)
    assert "0.25" in (show_status(fake_sweep(rates=[1e-3]), tmp_path), capsys.readouterr().out)[1]


def row(value, error=None, **point):
    return Row("name", "finished", 4, 4, point, value, error, 1.0, 1, "")


class Recorded:
    """Keeps the axes of the figure that would be saved."""

    def __init__(self, monkeypatch):
        self.axes = None
        monkeypatch.setattr(pictures_module, "save_figure", self._save)

    def _save(self, figure, path):
        self.axes = figure.axes
        return path


def test_each_axis_gets_its_scale(tmp_path, monkeypatch):
    recorded = Recorded(monkeypatch)
    values = [1.0, 2.0, 3.0, 4.0]
    found = [
        row(value, 0.1, rate=10.0**-i, depth=i, sde={"name": "ab"[i % 2]}, same=1)
        for i, value in enumerate(values, start=1)
    ]
    metric_against_axes(
        [
            *found,
            row(None, rate=1.0, depth=9, sde={"name": "c"}, same=1),
            row(math.nan, rate=1.0, depth=9, sde={}, same=1),
        ],
        Metric("loss"),
        tmp_path / "a.png",
    )
    rate, depth, sde = (panel for panel in recorded.axes if panel.get_visible())
    assert (rate.get_xscale(), depth.get_xscale(), sde.get_xscale()) == ("log", "linear", "linear")
    # In the order of the rows, and so of the best of each: the first has the name "b".
    assert [tick.get_text() for tick in sde.get_yticklabels()] == ["b", "a"] and sde.get_xlabel() == "loss"
    assert (sde.get_ylabel(), rate.get_xlabel(), rate.get_ylabel()) == ("sde", "rate", "loss")
    drawn = np.concatenate([line.get_xydata() for line in rate.get_lines() if line.get_marker() == "o"])
    assert sorted(drawn.tolist()) == sorted([10.0**-i, value] for i, value in enumerate(values, start=1))


def test_trials_of_one_place_stand_beside_each_other(tmp_path, monkeypatch):
    """Twelve trials at two rates: no two markers share a place, groups stay together, and none comes near the next rate."""
    recorded = Recorded(monkeypatch)
    found = [row(0.5, rate=rate, kind=kind, seed=s) for rate in (1e-3, 1e-2) for kind in "ab" for s in range(3)]
    metric_against_axes(found, Metric("loss"), tmp_path / "a.png")
    rate = recorded.axes[0]
    groups = [line.get_xdata() for line in rate.get_lines() if line.get_marker() == "o"]
    drawn = np.sort(np.log10(np.concatenate(groups)))
    assert np.diff(drawn).min() > 0.02 and np.abs(drawn - np.repeat([-3, -2], 6)).max() <= 0.31
    assert groups[0][:3].max() < groups[1][:3].min() and [t.get_text() for t in rate.get_xticklabels()] == [
        "0.001",
        "0.01",
    ]


def test_many_categories_have_a_line_each(tmp_path, monkeypatch):
    recorded = Recorded(monkeypatch)
    metric_against_axes([row(float(i), solver=f"solver {i}") for i in range(90)], Metric("loss"), tmp_path / "a.png")
    names = [tick.get_text() for tick in recorded.axes[0].get_yticklabels()]
    assert names == [f"solver {i}" for i in range(0, 90, 3)]


def test_a_plot_of_nothing(tmp_path):
    with pytest.raises(ValueError, match="A plot needs a trial that has the metric 'loss'; none has it yet"):
        metric_against_axes([row(None, rate=1.0)], Metric("loss"), tmp_path / "a.png")


def test_labels_are_short_where_they_differ():
    assert labels([{"name": "ve", "a": 1}, {"name": "vp"}]) == ["ve", "vp"]
    assert labels([{"name": "ve", "a": 1}, {"name": "ve", "a": 2}]) == [
        '{"a": 1, "name": "ve"}',
        '{"a": 2, "name": "ve"}',
    ]
    assert labels([0.001, None, "configs/quickstart.py:ve", (1, 2)]) == ["0.001", "null", "quickstart:ve", "[1, 2]"]


def test_running_writes_table_and_picture_and_says_whether_all_is_well(tmp_path, capsys):
    axes = {"optimizer.learning_rate": [1e-3, 1e-2], "network.depth": [1, 2]}
    assert run_sweep(build_sweep(described(axes=axes)), tmp_path, Options(max_parallel=2))
    printed = capsys.readouterr().out
    assert printed.count("finished") == 4 and (tmp_path / "table.md").read_text() in printed
    assert (tmp_path / "metric.png").read_bytes()[:4] == b"\x89PNG"
    failing = build_sweep(described(axes={**axes, "seed": [1]}, environment={"FAKE_FAIL": "0.01"}))
    assert not run_sweep(failing, tmp_path, Options(max_parallel=2))


def test_a_dry_run_prints_what_can_be_pasted_and_writes_nothing(tmp_path, capsys):
    axes = {"sde": [{"name": "ve", "sigma_min": 0.01, "sigma_max": 50.0}]}
    show_commands(build_sweep(described(axes=axes, train="python -m experiments.train")), tmp_path / "sweep", Options())
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].endswith(": pending") and printed[-1] == "# 1 trials"
    assert printed[1].startswith(
        'python -m experiments.train --config=configs/density2d.py \'--config.sde={"name": "ve", '
    )
    assert not (tmp_path / "sweep").exists()


def test_a_trial_that_an_earlier_version_finished_stays_finished(tmp_path):
    """Its record has the commands as that version wrote them."""
    then = ["python -m score_sde likelihood --workdir={workdir}"]
    sweep = build_sweep({**described(), "train": TRAIN, "then": then})
    trial = make_trial(sweep, tmp_path, {"sde": {"name": "ve"}})
    trial.write()
    done = tuple(shlex.join(c).replace("python -m score_sde ", "python -m experiments.") for c in trial.commands)
    trial.write_record(Record("finished", done=done))
    assert "experiments.train" in done[0] and trial.record().state == "finished"
    trial.write_record(Record("finished", done=(done[0].replace("density2d", "other"), done[1])))
    assert trial.record().state == "pending"
