"""Files that are there whole or not at all: written under a temporary name, brought to the disk, and renamed."""

import json
import os
import pathlib
import uuid
from collections.abc import Callable
from typing import IO, Any


def write_atomically(path: pathlib.Path, write: Callable[[IO[bytes]], object]) -> None:
    """Makes `path` hold what `write` puts into a file: all of it, or what was there before, whenever the run is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")  # two may write the same path at once
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
    """Makes `path` hold `value` as JSON, or what was there before. `options` are those of json.dumps."""
    write_text(path, json.dumps(value, **{"indent": 2, **options}) + "\n")


def remove_temporaries(folder: pathlib.Path) -> None:
    """Deletes what a killed run left half written below `folder`; nobody may be writing there."""
    for path in pathlib.Path(folder).rglob(".*.tmp"):
        path.unlink(missing_ok=True)


def remove_temporaries_of(path: pathlib.Path) -> None:
    """Deletes what a killed run left half written of `path`; nobody may be writing it."""
    for temporary in path.parent.glob(f".{path.name}.*.tmp"):
        temporary.unlink(missing_ok=True)
