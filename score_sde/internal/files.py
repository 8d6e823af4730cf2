"""Files that are complete or absent: written under a temporary name, brought to the disk, and renamed.

This module also reads JSON. A JSON file may be damaged, so every error names the file and the
remedy.
"""

import fcntl
import glob
import json
import os
import pathlib
import uuid
from collections.abc import Callable
from typing import IO, Any

MOST_BYTES = 2**24  # the most bytes of a JSON file. Our files have kilobytes. Python needs up to 20 times the bytes.
MOST_LEVELS = 100  # the most levels of JSON. Our files have about ten. Python itself stops at 1,000 to 100,000.
_KINDS = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}


def write_atomically(path: pathlib.Path, write: Callable[[IO[bytes]], object]) -> None:
    """Makes `path` hold what `write` writes into a file.

    If the run is killed at any time, `path` holds either all of the new content or the old content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A random name, because two processes may write the same path at once.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: pathlib.Path, text: str) -> None:
    """Makes `path` hold `text` in UTF-8, or what was there before."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: pathlib.Path, value: Any, **options: Any) -> None:
    """Makes `path` hold `value` as JSON, or what was there before. `options` go to json.dumps."""
    write_text(path, json.dumps(value, **{"indent": 2, **options}) + "\n")


def append_line(path: pathlib.Path, values: dict[str, Any]) -> None:
    """Adds a line of JSON to a file, and writes it to the disk.

    The line is whole. It never lands inside a line of another process.
    """
    line = json.dumps(values, sort_keys=True, allow_nan=True).encode() + b"\n"
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        end = os.fstat(file).st_size
        if end and os.pread(file, 1, end - 1) != b"\n":  # a line that a crash cut off must not join the new line
            line = b"\n" + line
        os.write(file, line)
        os.fsync(file)
    finally:
        os.close(file)


def read_json(path: str | os.PathLike[str], remedy: str, kind: type = dict) -> Any:
    """Reads a JSON file whose top level is a `kind`: dict, list, or object for any.

    Args:
      remedy: what the user can do about a damaged file, as the end of a sentence.
    Raises: ValueError for a damaged file, or another kind at the top level. OSError where the file
      cannot be read.
    """
    path = pathlib.Path(path)
    if path.exists() and not path.is_file():  # reading a pipe would never end
        raise ValueError(f"{path} needs to be a file of JSON, got something else; {remedy}.")
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path} needs JSON of at most {MOST_BYTES:,} bytes, got {path.stat().st_size:,}; {remedy}.")
    return parse_json(path.read_bytes(), str(path), remedy, kind)


def parse_json(text: str | bytes, where: str, remedy: str, kind: type = dict) -> Any:
    """Reads JSON whose top level is a `kind`, such as a line of a file.

    Args:
      where: what the text is, as the start of a sentence: "Line 3 of ledger.jsonl".
      remedy: what the user can do, as the end of a sentence.
    Raises: ValueError with both.
    """
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not whole JSON, it was cut off or damaged ({error}); {remedy}.") from error
    if text.count("[") + text.count("{") > MOST_LEVELS and _is_deep(value):
        raise ValueError(f"{where} needs JSON of at most {MOST_LEVELS} levels, got more; {remedy}.")
    if not isinstance(value, kind):
        got = _KINDS.get(type(value), "a number")
        raise ValueError(f"{where} needs {_KINDS[kind]} of JSON, got {got}; {remedy}.")
    return value


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MOST_LEVELS):
        inner = [
            list(part.values()) if isinstance(part, dict) else part for part in level if isinstance(part, dict | list)
        ]
        level = [part for parts in inner for part in parts]
    return any(isinstance(part, dict | list) for part in level)


def remove_temporaries(folder: pathlib.Path) -> None:
    """Deletes half-written files of an interrupted run below `folder`. No process may be writing there."""
    for path in pathlib.Path(folder).rglob(".*.tmp"):
        path.unlink(missing_ok=True)


def remove_temporaries_of(path: pathlib.Path) -> None:
    """Deletes half-written versions of `path` from an interrupted run. No process may be writing it."""
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        temporary.unlink(missing_ok=True)
