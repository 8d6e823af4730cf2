"""Tests that hang: in Python, in a child process, in a fixture, or in compiled code that does not release the interpreter."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
HANGING = """
import itertools, os, subprocess, time
import pytest
from tests import time_limit

time_limit.LIMIT_S, time_limit.GRACE_S = 0.5, 0.5

@pytest.fixture
def slow_fixture():
    yield
    time.sleep(60)

def test_sleeps():
    try:
        time.sleep(60)
    except Exception:
        pass

def test_waits_for_a_child():
    child = subprocess.Popen(["sh", "-c", "sleep 60 & echo $! > pid; wait"])
    child.wait()

def test_its_fixture_hangs(slow_fixture):
    pass

@pytest.mark.time_limit(20)
def test_may_take_longer():
    time.sleep(1)

def test_compiled_code():
    if os.environ["COMPILED"] == "yes":
        all(itertools.repeat(True))

def test_after():
    pass
"""


def run(folder: pathlib.Path, compiled: str, *arguments: str) -> str:
    (folder / "test_hanging.py").write_text(HANGING)
    command = [sys.executable, "-m", "pytest", "-p", "tests.time_limit", "-p", "no:cacheprovider", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COMPILED": compiled}
    for name in [name for name in environment if name.startswith("PYTEST_")]:
        del environment[name]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return ended.stdout + ended.stderr


def test_a_test_that_hangs_fails_with_its_name_and_the_others_run(tmp_path):
    said = run(tmp_path, "no", "-n", "0")
    assert "2 failed, 4 passed, 1 warning, 1 error" in said, said
    for name in ("test_sleeps (test)", "test_waits_for_a_child (test)", "test_its_fixture_hangs (teardown)"):
        assert f"TimeLimitExceeded: test_hanging.py::{name} took more than 0.5 s" in said, said
    assert "time.sleep(60)" in said and "most recent call first" in said
    grandchild = pathlib.Path("/proc", (tmp_path / "pid").read_text().strip(), "stat")
    assert not grandchild.exists() or ") Z " in grandchild.read_text()


@pytest.mark.slow
def test_compiled_code_that_hangs_ends_its_process_alone(tmp_path):
    said = run(tmp_path, "yes", "-n", "1", "-k", "compiled or after")
    assert "crashed while running 'test_hanging.py::test_compiled_code'" in said, said
    assert "1 failed, 1 passed" in said, said


def test_every_test_here_has_a_limit(request):
    """The conftest passes the hooks on."""
    for phase in ("setup", "call", "teardown"):
        hooks = getattr(request.node.ihook, f"pytest_runtest_{phase}").get_hookimpls()
        assert any(hook.function.__module__ == "tests.time_limit" for hook in hooks), phase
