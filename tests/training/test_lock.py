"""One run at a time in a folder."""

import re
import signal
import subprocess
import sys

import pytest

from score_sde.training.lock import LOCK_FILE, RunLock

HOLD = """
import sys
from score_sde.training.lock import RunLock
with RunLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_run_is_refused_and_told_who_holds_the_folder(tmp_path):
    with RunLock(tmp_path), pytest.raises(OSError, match=r"Another run \(host .*, process \d+, since 20") as error:
        RunLock(tmp_path).__enter__()
    assert f"training in {tmp_path}; wait for it or stop it, or choose another --workdir" in str(error.value)
    with RunLock(tmp_path):
        pass


def test_the_lock_goes_with_a_process_that_is_killed(tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], **pipes)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(OSError, match=f"process {holder.pid}"):
        RunLock(tmp_path).__enter__()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdin.close()
    holder.stdout.close()
    assert (tmp_path / LOCK_FILE).is_file()
    with RunLock(tmp_path):
        pass


def test_a_holder_that_has_not_yet_written_its_name(tmp_path):
    with RunLock(tmp_path):
        (tmp_path / LOCK_FILE).write_text("")
        with pytest.raises(OSError, match=re.escape(f"Another run is training in {tmp_path}")):
            RunLock(tmp_path).__enter__()
