"""Damaged and hostile files: every reader gives a result, or one or two sentences that name the file.

The files are read in a separate process with limited memory. If a file takes more than 512 MB or 20
seconds, or makes the process read outside of its memory, the process ends and the test fails with
the file's name.
"""

import json
import pathlib
import subprocess
import sys

import pytest

from tests.damaged.corpus import FORGIVING, READERS, REFUSED

ROOT = pathlib.Path(__file__).parents[2]


def read_in_a_child(*arguments: str) -> dict[str, tuple[str | None, str]]:
    """What came of each file: the kind of error or None, and its message."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.damaged.child", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert run.returncode == 0, f"ended with {run.returncode} in {lines[-1:]}: {run.stderr[-2000:]}"
    return {name: (kind, message) for name, kind, message in (line for line in lines if line[0] != "begin")}


def unclear(found: dict[str, tuple[str | None, str]], folder: pathlib.Path) -> list[str]:
    """Errors of another kind than ValueError and OSError, without the file, or longer than two sentences."""
    wrong = []
    for name, (kind, message) in found.items():
        if kind is None:
            continue
        known = kind in ("ValueError", "OSError", "FileNotFoundError", "FileExistsError")
        if not (known and str(folder) in message and "\n" not in message and len(message) < 600 + len(str(folder))):
            wrong.append(f"{name}: {kind}: {message[:300]}")
    return wrong


def test_hostile_files_are_refused(tmp_path):
    found = read_in_a_child("hostile", str(tmp_path))
    assert len(found) > 300 and not unclear(found, tmp_path)
    assert [name for name, (kind, _) in found.items() if kind is None] == []


def check_mutants(number: int, folder: pathlib.Path) -> None:
    found = read_in_a_child("mutants", str(folder), str(number), *READERS)
    assert len(found) == (number + 1) * len(READERS) and not unclear(found, folder)
    assert {name for name in READERS if found[name][0] is not None} == set(REFUSED)  # the unharmed file is read
    for reader in READERS:
        read = sum(found[f"{reader}: {index}"][0] is None for index in range(number))
        assert reader in FORGIVING or read < number / 2, f"{reader} reads {read} of {number} damaged files"


def test_mutants_of_every_kind_of_file(tmp_path):
    check_mutants(200, tmp_path)


def test_a_pipe_or_a_folder_with_the_name_of_a_file_is_refused_at_once(tmp_path):
    found = read_in_a_child("pipes", str(tmp_path), *READERS)
    assert len(found) == 2 * len(READERS) and not unclear(found, tmp_path)
    assert [name for name, (kind, _) in found.items() if kind is None] == []


@pytest.mark.slow
def test_many_mutants_of_every_kind_of_file(tmp_path):
    check_mutants(3000, tmp_path)
