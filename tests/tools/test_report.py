"""The page of a run, and of several runs, from folders with the files of a training and its evaluations."""

import json
import re

import numpy as np
import pytest

from score_sde import plots
from score_sde.evaluation.ledger import append_row
from score_sde.plots import html_report as report
from score_sde.plots import training as training_plots
from score_sde.plots.html_report import Rows, code_version, data_uri
from score_sde.runs.starts import STARTS_FILE, read_starts, record_start
from score_sde.tools import report as run_report
from score_sde.tools.report import default_output, differing_fields, key_numbers, panels, write_report
from score_sde.tools.run_files import read_run, short_names
from tests.plots.test_html_report import parse

CONFIG = {
    "sde": {"name": "vp", "beta_max": 20.0},
    "network": {"name": "mlp"},
    "optimizer": {"learning_rate": 1e-3},
    "training": {"num_steps": 100, "batch_size": 8},
}
ROW = {
    "date": "2026-11-30T12:34:56+00:00",
    "step": 60,
    "ema": "5",
    "nfe": 20.0,
    "sampling": {"solver": {"name": "heun"}, "grid": {"num_steps": 10}},
    "results": {"fd": {"value": 7.04, "standard_error": 0.14, "interval": [6.765, 7.323], "note": "rough <bias>"}},
    "warnings": ["fd is of 200 samples."],
    "command": "score-sde evaluate --workdir=runs/vp",
}


def make(folder, rate=1e-3, scale=1.0, **more):
    """A run of 60 of 100 steps."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | {"optimizer": {"learning_rate": rate}} | more))
    steps = range(2, 62, 2)
    lines = [{"step": s, "loss": scale / s, "learning_rate": rate, "skipped": float(s == 40)} for s in steps]
    lines[14]["eval/eps_error"], lines[-1]["eval/eps_error"] = 0.25, 0.5
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    timing = [{"step": s, "time": 1e9, "images_per_second": 100.0 + s, "step_seconds": 0.5} for s in steps]
    (folder / "timing.jsonl").write_text("".join(json.dumps(line) + "\n" for line in timing))
    (folder / "checkpoints" / "60").mkdir(parents=True)
    for step in range(10, 90, 10):
        plots.save_image(folder / "samples" / f"step_{step:08d}.png", np.full((8, 8, 3), step, np.uint8))
    return folder


@pytest.fixture
def run(tmp_path):
    """With all that a folder may hold."""
    folder = make(tmp_path / "vp")
    append_row(folder, ROW)
    (folder / "ledger.jsonl").open("a").write('{"cut')
    incident = {"step": 40, "loss": "NaN", "grad_norm": "NaN", "last_checkpoint": 20}
    incident["examples"] = [{"index": 1, "loss": "NaN"}, {"index": 2, "loss": 0.5}]
    (folder / "incidents").mkdir()
    (folder / "incidents" / "step_00000040.json").write_text(json.dumps(incident))
    history = {"changes": [{"step": 20, "fields": {"optimizer.learning_rate": [0.01, 0.001]}}], "init_from": None}
    (folder / "history.json").write_text(json.dumps(history | {"data": {"train": {"count": 77}}}))
    record_start(folder, 0)
    plots.save_image(folder / "noise_levels.png", np.zeros((8, 8, 3), np.uint8))
    return folder


def test_the_page_of_a_run_has_everything_and_needs_nothing(run):
    page = write_report([run]).read_text("utf-8")
    found = parse(page)
    text = " ".join(" ".join(found.text).split())
    for part in ("60 of 100", "checkpoints at 60", "480", "batches of 8", "0.25, at step 30", "median over the log"):
        assert part in text, part
    for part in (
        "7.04 ± 0.14 se",
        "6.765 to 7.323",
        "heun",
        "rough <bias>",
        "fd is of 200 samples.",
        "2026-11-30 12:34",
    ):
        assert part in text, part
    for part in ("1 of 2", "Steps were skipped before 40.", "optimizer.learning_rate 0.01 0.001", "sde.beta_max", "77"):
        assert part in text, part
    assert code_version() in text and "Line 2 of" in text and "score-sde evaluate --workdir=runs/vp" in text
    sources = [value for name, value in found.attributes if name in ("src", "href")]
    assert len(sources) == 1 + 6 + 1 and all(source.startswith("data:image/") for source in sources)
    captions = [step for step in range(10, 90, 10) if f"After {step} steps." in text]
    assert captions == [10, 20, 40, 50, 70, 80]  # evenly spread, with the first and the last


def test_key_numbers(run):
    numbers = {number.name: number for number in key_numbers(read_run(run))}
    assert numbers["training loss"].value == pytest.approx(np.mean([1 / s for s in range(22, 62, 2)]))
    assert numbers["held-out error of ε̂"].value == 0.5 and numbers["images seen"].value == 480
    assert numbers["time in steps"].value == "0:30" and numbers["speed"].value == 131.0


def test_several_runs_are_held_against_each_other(run, tmp_path, monkeypatch):
    other = make(tmp_path / "ve", 3e-4, 2.0, sde={"name": "ve", "sigma_max": 50.0})
    runs = [read_run(path, name) for path, name in zip((run, other), short_names([run, other]), strict=True)]
    assert differing_fields(runs) == [
        ["sde.name", "vp", "ve"],
        ["sde.beta_max", "20.0", "–"],
        ["optimizer.learning_rate", "0.001", "0.0003"],
        ["sde.sigma_max", "–", "50.0"],
    ]
    drawn = []
    monkeypatch.setattr(run_report, "training_curves", lambda found, path: drawn.append(found) or _blank(path))
    path = write_report([run, other])
    text = " ".join(" ".join(parse(path.read_text("utf-8")).text).split())
    assert path == tmp_path / "report.html" and "vp, after 80 steps." in text and "ve, after 80 steps." in text
    assert [(panel.title, list(panel.curves)) for panel in drawn[0]] == [
        ("Training loss", ["vp", "ve"]),
        ("Held-out error of ε̂", ["vp", "ve"]),
        ("Learning rate", ["vp", "ve"]),
        ("Speed", ["vp", "ve"]),
    ]
    assert code_version()[:12] in text and "Incidents of vp" in text and "sde.sigma_max – 50.0" in text


def _blank(path):
    return plots.save_image(path, np.zeros((4, 4, 3), np.uint8))


def test_a_run_that_has_nothing_but_its_config(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    text = " ".join(parse(write_report([tmp_path]).read_text("utf-8")).text)
    assert "Nothing is logged yet" in text and "no checkpoint" in text and "Evaluations" not in text
    assert not panels([read_run(tmp_path)])[0].curves


def test_a_run_has_one_colour_in_all_panels(run, tmp_path, monkeypatch):
    made, new = [], training_plots.new_figure
    monkeypatch.setattr(training_plots, "new_figure", lambda *a: made.append(new(*a)) or made[-1])
    runs = [read_run(run, "a"), read_run(make(tmp_path / "b", scale=3.0), "b")]
    training_plots.training_curves(panels(runs), tmp_path / "c.png")
    ((_, axes),) = made
    colors = [[line.get_color() for line in one.get_lines() if line.get_label() in "ab"] for one in axes.flat]
    assert all(found == colors[0] for found in colors) and len(set(colors[0])) == 2
    with pytest.raises(ValueError, match="training_curves needs at least one curve, got none; train first"):
        training_plots.training_curves([], tmp_path / "c.png")


def test_where_the_page_lies(run, tmp_path):
    assert default_output([run]) == run / "report.html"
    (run / "report.json").write_text("{}")  # the quickstart has a page of its own
    assert default_output([run]) == run / "run_report.html"
    assert short_names([tmp_path / "a" / "x", tmp_path / "b" / "x"]) == ["a/x", "b/x"]


def test_what_is_no_run_is_refused(run, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No run in .*nothing: it has no config\.json, which every training"):
        write_report([tmp_path / "nothing"])
    with pytest.raises(ValueError, match="--workdir needs different runs to compare, got .*vp, .*vp"):
        write_report([run, run])
    (run / "incidents" / "step_00000050.json").write_text("{")
    with pytest.raises(ValueError, match=r"step_00000050\.json is not whole JSON, .*; delete it, or restore it"):
        write_report([run])


def test_starts_are_kept_and_a_cut_line_is_left_out(tmp_path):
    record_start(tmp_path, 0)
    with (tmp_path / STARTS_FILE).open("a") as file:
        file.write('{"step": 7, "comm')
    record_start(tmp_path, 20)
    assert [start["step"] for start in read_starts(tmp_path)] == [0, 20] and read_starts(tmp_path / "none") == []
    assert read_starts(tmp_path)[0]["commit"] == code_version() and "cpu" in read_starts(tmp_path)[0]["hardware"]


@pytest.mark.parametrize(
    ("answers", "version"),
    [
        ({"ls-files": "html_report.py", "rev-parse": "1a2b", "status": ""}, "1a2b"),
        ({"ls-files": "html_report.py", "rev-parse": "1a2b", "status": " M x"}, r"1a2b \+ changes"),
        ({"ls-files": None, "rev-parse": "of another project", "status": ""}, r"score_sde \S+"),
        ({}, r"score_sde \S+"),
    ],
)
def test_the_commit_is_that_of_the_package(monkeypatch, answers, version):
    """Installed inside a checkout of something else, the package has a version and no commit."""

    def run(words, **options):
        if not answers:
            raise FileNotFoundError("git")
        answer = answers[words[3]]
        return type("Done", (), {"returncode": int(answer is None), "stdout": answer or ""})

    monkeypatch.setattr(report.subprocess, "run", run)
    assert re.fullmatch(version, code_version.__wrapped__())


def test_a_large_picture_is_copied_smaller(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (300, 2000, 3), np.uint8)
    path = plots.save_image(tmp_path / "large.png", noise)
    assert data_uri(path).startswith("data:image/png") and data_uri(path, 10**8) == data_uri(path)
    small = data_uri(path, 300_000)
    assert small.startswith("data:image/webp") and len(small) < len(data_uri(path)) / 3


def test_rows_are_escaped():
    found = parse(Rows("a", ["<b>", "c"], [["<i>", "d & e"]], "f < g").html())
    assert found.text == ["<b>", "c", "<i>", "d & e", "f < g"]
