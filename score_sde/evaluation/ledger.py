"""The ledger: one line of JSON for each evaluation.

A line has everything that is needed to compare two evaluations and to repeat one.
"""

import hashlib
import json
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from score_sde.internal.files import append_line, parse_json
from score_sde.plots.html_report import format_value

LEDGER = "ledger.jsonl"
_SECTIONS = ("sampling", "sampling.solver", "sampling.grid", "reference", "held_out")  # of a row, where it has them
_SHOWN = ("workdir", "step", "ema", "solver", "steps", "nfe", "num_samples", "seeds", "reference", "features")


class Row(NamedTuple):
    """A line of the ledger of `workdir`. `number` counts from 1 over all ledgers that were read together."""

    number: int
    workdir: pathlib.Path
    values: dict[str, Any]


def digest_of_json(content: Any) -> str:
    """The SHA-256 of the content as JSON with sorted names."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def append_row(workdir: pathlib.Path, values: dict[str, Any]) -> None:
    """Adds a line to workdir/ledger.jsonl."""
    append_line(workdir / LEDGER, values)


def read_rows(workdirs: Sequence[pathlib.Path]) -> tuple[list[Row], list[str]]:
    """The rows of all ledgers in turn, and a warning for each line that cannot be read.

    Raises: FileNotFoundError for a folder without a ledger.
    """
    rows: list[Row] = []
    warnings: list[str] = []
    for workdir in workdirs:
        path = workdir / LEDGER
        if not path.is_file():
            raise FileNotFoundError(f"No {LEDGER} in {workdir}; score-sde evaluate writes it.")
        for place, line in enumerate(path.read_bytes().split(b"\n"), start=1):
            if not line.strip():
                continue
            try:
                rows.append(Row(len(rows) + 1, workdir, _parsed(line, f"Line {place} of {path}")))
            except ValueError as error:
                warnings.append(str(error))
    return rows, warnings


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    """The values of a row.

    Raises: ValueError where required values are missing or have another type.
    """
    remedy = "the line is left out"
    values = parse_json(line, where, remedy)
    results = values.get("results")
    if not isinstance(results, dict) or not all(isinstance(result, dict) for result in results.values()):
        raise ValueError(f"{where} has no results; {remedy}.")
    for name, result in results.items():
        errors = [result[error] for error in ERRORS if result.get(error) is not None]
        if not all(_is_number(number) for number in [result.get("value"), *errors]):
            raise ValueError(f"{where} needs numbers as the value and the error of {name}; {remedy}.")
    wrong = [name for name in _SECTIONS if not isinstance(_at(values, name), dict | None)]
    if wrong:
        raise ValueError(f"{where} needs an object as its {', '.join(wrong)}; {remedy}.")
    return values


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 10**300)  # JSON has larger ones


def _at(values: dict[str, Any], path: str) -> Any:
    found: Any = values
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def find_row(rows: Sequence[Row], number: int) -> Row:
    """The row of this number.

    Raises: ValueError where there is none.
    """
    if not 1 <= number <= len(rows):
        raise ValueError(f"The ledger needs a row from 1 to {len(rows)}, got {number}; without options it is printed.")
    return rows[number - 1]


def copy_rows(rows: Sequence[Row], folder: pathlib.Path) -> int:
    """Adds rows to folder/ledger.jsonl, such as a ledger that is published with the code.

    Returns the number of new rows.

    Raises: ValueError for a row with a path that has a meaning on one machine only. Then nothing is
      written.
    """
    local = {path: row.number for row in rows for path in _absolute_paths(row.values)}
    if local:
        named = ", ".join(f"{path} in row {number}" for path, number in local.items())
        raise ValueError(
            f"Only rows without absolute paths can be copied, got {named}; evaluate again with paths relative to the folder "
            "that the command runs in."
        )
    there = [row.values for row in read_rows([folder])[0]] if (folder / LEDGER).is_file() else []
    new = [row.values for row in rows if row.values not in there]
    folder.mkdir(parents=True, exist_ok=True)
    for values in new:
        append_row(folder, values)
    return len(new)


def without_folders(content: Any) -> Any:
    """The same values with every absolute path replaced by its last part.

    The rest of such a path has a meaning on one machine only.
    """
    if isinstance(content, dict):
        return {name: without_folders(value) for name, value in content.items()}
    if isinstance(content, list):
        return [without_folders(value) for value in content]
    return (
        pathlib.PurePath(content).name
        if isinstance(content, str) and list(_absolute_paths(content)) == [content]
        else content
    )


def _absolute_paths(content: Any) -> Iterator[str]:
    """Every absolute path in the strings of a row, alone or within a command."""
    if isinstance(content, str):
        yield from re.findall(r"(?:^|(?<=[\s='\",]))(?:[/~]|[A-Za-z]:\\)[^\s'\",]+", content)
    elif isinstance(content, dict):
        for value in content.values():
            yield from _absolute_paths(value)
    elif isinstance(content, list):
        for value in content:
            yield from _absolute_paths(value)


# Column -> the field of a row with its value, if the name differs.
_PLACES = {
    "solver": "sampling.solver.name",
    "steps": "sampling.grid.num_steps",
    "images": "training_images",
    "reference": "reference.name",
}


def row_value(row: Row, name: str) -> Any:
    """A cell of the table, or None where the row does not have it."""
    values = row.values
    if name == "workdir":
        return pathlib.PurePath(str(values.get("workdir", row.workdir))).name
    return _at(values, _PLACES.get(name, name))


def table(rows: Sequence[Row]) -> str:
    """The rows as aligned text: what was evaluated, and each metric with its error."""
    metrics = list(dict.fromkeys(name for row in rows for name in row.values["results"]))
    lines = [["row", *_SHOWN, *metrics]]
    for row in rows:
        cells, found = [cell(row_value(row, name)) for name in _SHOWN], row.values["results"]
        lines.append([str(row.number), *cells, *(with_error(found[name]) if name in found else "" for name in metrics)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


# Field of a result -> its name in a table. The first field that exists is shown.
ERRORS = {"sd": "sd", "standard_error": "se", "split_sd": "sd of splits"}
ERRORS_TOLD = (
    "se: standard error; sd: standard deviation over seeds, of one seed's value; sd of splits: over the splits."
)


def error_of(result: dict[str, Any]) -> float | None:
    """The spread over seeds if there are several, else the standard error, the spread over splits, or None."""
    return next((result[name] for name in ERRORS if result.get(name) is not None), None)


def with_error(result: dict[str, Any]) -> str:
    """value ± error, and the kind of error."""
    text = format_value(float(result["value"]), error_of(result))
    kind = next((ERRORS[name] for name in ERRORS if result.get(name) is not None), "")
    return f"{text} {kind}" if "±" in text else text


def cell(value: Any) -> str:
    """A value as short text. For a path it is the last part."""
    if isinstance(value, list):
        return ",".join(map(str, value))
    if isinstance(value, str) and "/" in value:
        return pathlib.PurePath(value).name
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
