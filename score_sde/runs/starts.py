"""The starts of a training, in starts.jsonl: the time, the step, the code and the machine of each start.

A line is {"time": "2026-11-30T12:00:00+00:00", "step": 0, "commit": "1a2b…", "hardware": "8 × H100
…", "versions": "…"}.
"""

import datetime
import pathlib
from typing import Any

from score_sde.internal.files import append_line, parse_json
from score_sde.plots.html_report import code_version, environment

STARTS_FILE = "starts.jsonl"


def about_this_process() -> dict[str, str]:
    """The commit of the code, and the hardware and versions of this process."""
    about = environment()
    processes = "" if about["processes"] == "1" else f" of {about['processes']} processes"
    return {
        "commit": code_version(),
        "hardware": f"{about['devices']}{processes}; {about['processor']}",
        "versions": f"Python {about['Python']}, {about['packages']}",
    }


def record_start(workdir: pathlib.Path, step: int) -> None:
    """Adds a line for a training that starts after `step`."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    append_line(workdir / STARTS_FILE, {"time": now, "step": step, **about_this_process()})


def read_starts(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """The starts of a run, without lines that a crash cut off. [] for a run of an earlier version."""
    path, found = workdir / STARTS_FILE, []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(parse_json(line, f"Line {number} of {path}", "delete the line"))
        except ValueError:
            continue
    return found
