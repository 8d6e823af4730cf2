"""A report page of one run, or a page that compares several runs, from the files in their folders."""

import pathlib
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from score_sde.evaluation.ledger import ERRORS_TOLD, cell, row_value, with_error
from score_sde.plots.html_report import (
    Commands,
    Number,
    Numbers,
    Picture,
    Pictures,
    Report,
    Rows,
    Section,
    Table,
    Text,
    flatten,
    format_value,
)
from score_sde.plots.training import Panel, training_curves
from score_sde.tools.run_files import RunFiles, read_run, short_names
from score_sde.training.logs.logging import Series
from score_sde.training.logs.stages import duration

MOST_BYTES = 300_000  # the most bytes of a picture in the page
PREVIEWS = 6  # the number of pictures of samples over the training
LAST = 20  # the number of log lines over which a final loss is averaged
NONE = "–"
_COLUMNS = ("step", "ema", "solver", "steps", "nfe", "num_samples", "reference", "features")
_HEADS = ("training step", "average", "solver", "solver steps", "evaluations", "samples", "reference", "features")


def write_report(workdirs: Sequence[pathlib.Path], output: pathlib.Path | None = None) -> pathlib.Path:
    """Writes the page of one run, or of several runs. Returns its path.

    Args:
      output: the file. None is WORKDIR/report.html, or run_report.html where the quickstart has
        written report.html. For several runs it is report.html in the folder that contains the
        first run.
    Raises: FileNotFoundError for a folder without a run. ValueError for a damaged file, with its
      name, or a repeated folder.
    """
    if len({path.resolve() for path in workdirs}) < len(workdirs):
        raise ValueError(f"--workdir needs different runs to compare, got {', '.join(map(str, workdirs))}.")
    runs = [read_run(path, name) for path, name in zip(workdirs, short_names(workdirs), strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        page = one_run(runs[0], pathlib.Path(folder)) if len(runs) == 1 else several_runs(runs, pathlib.Path(folder))
        return page.write(output or default_output(workdirs))


def default_output(workdirs: Sequence[pathlib.Path]) -> pathlib.Path:
    """The path of the page if the user names none."""
    if len(workdirs) > 1:
        return workdirs[0].parent / "report.html"
    is_quickstart = (workdirs[0] / "report.json").is_file()
    return workdirs[0] / ("run_report.html" if is_quickstart else "report.html")


def one_run(run: RunFiles, folder: pathlib.Path) -> Report:
    """The page of one run. Its curves are drawn in `folder`."""
    sections: list[Section] = [Numbers(key_numbers(run)), *_curves([run], folder)]
    chosen = _spread(run.previews, PREVIEWS)
    if chosen:
        pictures = [_picture(path, f"After {step:,} steps.", wide=len(chosen) == 1) for step, path in chosen]
        sections.append(Pictures(pictures, "Samples over the training"))
    sections += _evaluations([run])
    if run.pictures:
        named = [_picture(path, path.relative_to(run.workdir).as_posix()) for path in run.pictures]
        sections.append(Pictures(named, "Pictures of evaluations"))
    sections += _incidents(run)
    sections += _origin(run)
    sections.append(Commands(_commands(run), "What next"))
    sections.append(Table("Configuration", run.config, folded=True))
    return Report(f"Run {run.name}", _summary(run), sections)


def several_runs(runs: Sequence[RunFiles], folder: pathlib.Path) -> Report:
    """The page of several runs. Their curves share the panels."""
    sections: list[Section] = [_overview(runs), *_curves(runs, folder)]
    newest = [(run, *run.previews[-1]) for run in runs if run.previews]
    if newest:
        pictures = [_picture(path, f"{run.name}, after {step:,} steps.", wide=False) for run, step, path in newest]
        sections.append(Pictures(pictures, "Newest samples"))
    sections += [_differences(runs), *_evaluations(runs), _starts(runs)]
    sections += [incident for run in runs for incident in _incidents(run, named=True)]
    names = ", ".join(run.name for run in runs)
    return Report(f"{len(runs)} runs", f"{names}. Lines of one colour are of one run.", sections)


def key_numbers(run: RunFiles) -> list[Number]:
    """The progress of the run, its losses and its speed."""
    numbers = [Number("steps", run.step, f"of {run.num_steps:,}", None, _state(run))]
    batch = int(run.config.get("training", {}).get("batch_size") or 0)
    if batch:
        numbers.append(Number("images seen", run.step * batch, "", None, f"batches of {batch:,}"))
    if loss := run.metrics.get("loss"):
        numbers.append(
            Number("training loss", _last(loss), "", None, f"mean of the last {min(LAST, len(loss.values))} lines")
        )
    held_out = run.held_out_loss()
    if held_out is not None and len(held_out.values):
        best = int(np.nanargmin(held_out.values)) if np.isfinite(held_out.values).any() else 0
        least = f"the least is {held_out.values[best]:.4g}, at step {held_out.steps[best]:,}"
        numbers.append(Number("held-out error of ε̂", float(held_out.values[-1]), "per dimension", None, least))
    if rate := run.metrics.get("learning_rate"):
        numbers.append(Number("learning rate", float(rate.values[-1]), "", None, "at the last logged step"))
    if speed := run.timing.get("images_per_second"):
        numbers.append(Number("speed", float(np.median(speed.values)), "images/s", None, "median over the log"))
    if seconds := run.timing.get("step_seconds"):
        spent = float((np.diff(seconds.steps, prepend=0) * seconds.values).sum())
        numbers.append(Number("time in steps", duration(spent), "", None, "without evaluations and checkpoints"))
    if flops := run.timing.get("flops_per_second"):
        numbers.append(Number("arithmetic", float(np.median(flops.values)) / 1e12, "TFLOP/s", None, "on all devices"))
    if memory := run.timing.get("device_bytes"):
        numbers.append(Number("device memory", float(memory.values.max()) / 1e9, "GB", None, "the most on one device"))
    return numbers


def panels(runs: Sequence[RunFiles]) -> list[Panel]:
    """Loss, held-out error, learning rate and speed of each run, where it has them."""

    def curves(find: Any) -> Mapping[str, Series]:
        found = {run.name: find(run) for run in runs}
        return {name: series for name, series in found.items() if series is not None and len(series.steps)}

    return [
        Panel("Training loss", "loss", curves(lambda run: run.metrics.get("loss"))),
        Panel("Held-out error of ε̂", "‖ε̂ − ε‖² per dimension", curves(lambda run: run.held_out_loss())),
        Panel("Learning rate", "learning rate", curves(lambda run: run.metrics.get("learning_rate"))),
        Panel("Speed", "images/s", curves(lambda run: run.timing.get("images_per_second"))),
    ]


def differing_fields(runs: Sequence[RunFiles]) -> list[list[str]]:
    """[field, value in the first run, …] for each field of the configs that differs between runs."""
    flat = [flatten(run.config) for run in runs]
    rows = [[name, *(_text(config, name) for config in flat)] for name in dict.fromkeys(n for c in flat for n in c)]
    return [row for row in rows if len(set(row[1:])) > 1]


def _text(config: Mapping[str, Any], name: str) -> str:
    return str(config[name]) if name in config else NONE


def _last(series: Series) -> float:
    return float(np.mean(series.values[-LAST:]))


def _state(run: RunFiles) -> str:
    if run.num_steps and run.step >= run.num_steps:
        return "finished"
    kept = f"checkpoints at {', '.join(f'{step:,}' for step in run.checkpoints[-5:])}" if run.checkpoints else ""
    return kept or "no checkpoint"


def _summary(run: RunFiles) -> str:
    parts = {name: run.config.get(name) for name in ("sde", "parameterization", "network")}
    named = [str(section["name"]) for section in parts.values() if isinstance(section, dict) and "name" in section]
    return f"{' · '.join(named)}. Step {run.step:,} of {run.num_steps:,}, {_state(run)}."


def _picture(path: pathlib.Path, caption: str, wide: bool = True) -> Picture:
    return Picture(path, caption, wide, MOST_BYTES)


def _curves(runs: Sequence[RunFiles], folder: pathlib.Path) -> list[Section]:
    drawn = [panel for panel in panels(runs) if panel.curves]
    if not drawn:
        return [Text("Curves", "Nothing is logged yet: metrics.jsonl and timing.jsonl are missing or empty.")]
    path = training_curves(drawn, folder / "curves.png")
    caption = "Thin as logged, thick smoothed. A red line marks a step whose value is not finite."
    return [Pictures([Picture(path, caption)], "Curves")]


def _evaluations(runs: Sequence[RunFiles]) -> list[Section]:
    rows = [(run, row) for run in runs for row in run.rows]
    warnings: list[Section] = [
        Text("Damaged lines of the ledger", "\n\n".join(run.warnings)) for run in runs if run.warnings
    ]
    if not rows:
        return warnings
    of_run = ["run"] if len(runs) > 1 else []
    lines = []
    for run, row in rows:
        name_of_run = [run.name] * len(of_run)
        about = [*(cell(row_value(row, name)) for name in _COLUMNS), _day(row.values.get("date"))]
        for name, result in row.values["results"].items():
            low, high = result.get("interval", (None, None))
            interval = "" if low is None else f"{low:.4g} to {high:.4g}"
            note = str(result.get("note", ""))
            lines.append([*name_of_run, name, with_error(result), interval, *about, note])
            name_of_run, about = [""] * len(of_run), [""] * len(about)  # rows of one evaluation name it once
    told = dict.fromkeys(str(warning) for _, row in rows for warning in row.values.get("warnings", []))
    header = [*of_run, "metric", "value", "95 % interval", *_HEADS, "date", "note"]
    sections: list[Section] = [Rows("Evaluations", header, lines, ERRORS_TOLD)]
    if told:
        sections.append(Text("Warnings of the evaluations", "\n\n".join(told)))
    return sections + warnings


def _day(date: Any) -> str:
    """A time for readers: "2026-11-30 12:00"."""
    return str(date)[:16].replace("T", " ") if date else NONE


def _incidents(run: RunFiles, named: bool = False) -> list[Section]:
    """The losses that were not finite, and the steps that were skipped."""
    lines = []
    for report in run.incidents:
        examples = [e for e in report.get("examples", []) if isinstance(e, dict)]
        bad = sum(isinstance(example.get("loss"), str) for example in examples)
        numbers = [str(report.get(name, NONE)) for name in ("step", "loss", "grad_norm", "last_checkpoint")]
        lines.append([*numbers, f"{bad} of {len(examples)}"])
    skipped = run.metrics.get("skipped")
    note = ""
    if skipped is not None and skipped.values.any():
        note = f"Steps were skipped before {', '.join(f'{s:,}' for s in skipped.steps[skipped.values > 0][:20])}."
    if not lines and not note:
        return []
    title = f"Incidents of {run.name}" if named else "Incidents"
    head = ["step", "loss", "gradient norm", "last checkpoint", "examples whose loss was not finite"]
    return [Rows(title, head, lines, note)]


def _origin(run: RunFiles) -> list[Section]:
    """The code, the hardware, and the changes during the run."""
    sections: list[Section] = [_starts([run])] if run.starts else []
    lines = [
        [f"{change.get('step', NONE)}", field, *map(str, values)]
        for change in run.history.get("changes", [])
        for field, values in change.get("fields", {}).items()
    ]
    if lines:
        sections.append(Rows("Changes on the way", ["after step", "field", "before", "from then on"], lines))
    if run.history.get("init_from"):
        sections.append(Table("Began with the weights of", run.history["init_from"]))
    if run.history.get("data"):
        sections.append(Table("Data", run.history["data"], folded=True))
    return sections


def _starts(runs: Sequence[RunFiles]) -> Rows:
    of_run = ["run"] if len(runs) > 1 else []
    names = ("step", "commit", "hardware", "versions")
    lines = [
        [run.name] * len(of_run) + [_day(start.get("time")), *(str(start.get(name, NONE)) for name in names)]
        for run in runs
        for start in run.starts or [{}]
    ]
    note = "" if all(run.starts for run in runs) else "Runs of earlier versions did not record their starts."
    return Rows("Code and hardware", [*of_run, "start", "after step", "commit", "hardware", "versions"], lines, note)


def _overview(runs: Sequence[RunFiles]) -> Rows:
    metrics = list(dict.fromkeys(name for run in runs for row in run.rows for name in row.values["results"]))
    header = ["run", "steps", "training loss", "held-out error of ε̂", "images/s", *metrics, "commit"]
    lines = []
    for run in runs:
        loss, held_out, speed = run.metrics.get("loss"), run.held_out_loss(), run.timing.get("images_per_second")
        numbers = [
            None if loss is None else _last(loss),
            None if held_out is None else float(held_out.values[-1]),
            None if speed is None else float(np.median(speed.values)),
        ]
        newest: dict[str, str] = {}
        for row in run.rows:
            newest |= {name: with_error(result) for name, result in row.values["results"].items()}
        commit = str(run.starts[-1].get("commit", NONE)) if run.starts else NONE
        texts = [NONE if value is None else format_value(value) for value in numbers]
        steps = f"{run.step:,} of {run.num_steps:,}"
        lines.append([run.name, steps, *texts, *(newest.get(name, NONE) for name in metrics), commit[:12]])
    note = f"Losses are means of the last {LAST} lines; of each metric the newest row of the ledger. {ERRORS_TOLD}"
    return Rows("Overview", header, lines, note)


def _differences(runs: Sequence[RunFiles]) -> Section:
    rows = differing_fields(runs)
    if not rows:
        return Text("Differences of the configs", "The configs are the same.")
    return Rows("Differences of the configs", ["field", *(run.name for run in runs)], rows)


def _spread(found: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of them, evenly spread, including the first and the last."""
    if len(found) <= count:
        return list(found)
    return [found[int(i)] for i in np.unique(np.linspace(0, len(found) - 1, count).round())]


def _commands(run: RunFiles) -> list[str]:
    where = f"--workdir={shlex.quote(str(run.workdir))}"
    commands = [
        f"score-sde sample {where} --num_samples=100",
        f"score-sde evaluate {where} --metrics=fid,kid --num_samples=50000",
        f"score-sde likelihood {where}",
    ]
    return commands + [row.values["command"] for row in run.rows if "command" in row.values]
