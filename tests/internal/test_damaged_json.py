"""Damaged JSON files of the project: every reader names the file and the remedy."""

import json
import pathlib

import numpy as np
import pytest

from score_sde.evaluation.ledger import append_row, read_rows, table
from score_sde.internal.files import parse_json, read_json, write_json
from score_sde.run_config import from_workdir
from score_sde.runs.streams import claim
from score_sde.solvers.grids.fitted import Fitted, save_grid
from score_sde.sweeps import Metric, Queue
from score_sde.sweeps.metric import last_step
from score_sde.sweeps.trial import Record, read_record
from score_sde.training.lock import RunLock
from score_sde.training.logs.logging import MetricLogger, drop_lines_after, read_metrics
from tests.sweeps.several import fake_sweep

DAMAGES = {
    "empty": lambda data: b"",
    "a list": lambda data: b"[]\n",
    "null": lambda data: b"null\n",
    "a number": lambda data: b"7\n",
    "5,000 lists": lambda data: b"[" * 5000 + b"]" * 5000 + b"\n",
    "5,000 objects": lambda data: b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"\n",
    "200 lists inside": lambda data: data[: data.rindex(b"}")] + b', "z": ' + b"[" * 200 + b"]" * 200 + b"}\n",
    "cut": lambda data: data[: len(data) // 2] + b"\n",
    "not UTF-8": lambda data: data.replace(b'"', b'"\xff', 1),
    "5,000 digits": lambda data: b'{"step": ' + b"9" * 5000 + b"}\n",
    "noise": lambda data: np.random.default_rng(0).bytes(300).replace(b"\n", b"") + b"\n",
}  # fmt: skip


def config(folder):
    path = folder / "config.json"
    write_json(path, {"seed": 0, "data": {}})
    return path, lambda: from_workdir(folder)


def record(folder):
    path = folder / "record.json"
    write_json(path, {"state": "running", "retries": 1, "done": ["a"], "seconds": 2.5, "message": ""})
    assert read_record(path) == Record("running", 1, ("a",), 2.5, "")
    return path, lambda: read_record(path)


def trial(folder):
    (one, *_) = Queue(fake_sweep(), folder, write=False).trials.values()
    one.write()
    return one.folder / "trial.json", one.write


def manifest(folder):
    content = {"digest": "1", "config": {"seed": 0}}
    claim(folder, content)
    return folder / "manifest.json", lambda: claim(folder, content)


def log(folder):
    with MetricLogger(folder) as logger:
        logger.log(1, {"loss": float("nan")})
    path = folder / "metrics.jsonl"
    assert read_metrics(path)["loss"].steps.tolist() == [1] and last_step(folder) == 1
    return path, lambda: read_metrics(path)


def log_of_a_resumed_run(folder):
    path, _ = log(folder)
    return path, lambda: drop_lines_after(path, 1)


def log_of_a_trial(folder):
    path, _ = log(folder)
    return path, lambda: last_step(folder)


def number(folder):
    write_json(folder / "likelihood.json", {"mean": 1.5})
    return folder / "likelihood.json", lambda: Metric("likelihood.json:mean").read(folder)


def grid(folder):
    path = save_grid(Fitted(3, knots=[2.0, 1.0, 0.5], cumulative=[0.0, 0.4, 1.0]), folder / "grid.json")
    return path, lambda: Fitted(path=str(path))


READERS = [config, record, trial, manifest, log, log_of_a_resumed_run, log_of_a_trial, number, grid]


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_names_the_file_and_says_what_to_do(reader, tmp_path):
    path, read = reader(tmp_path)
    whole = path.read_bytes()
    for what, damage in DAMAGES.items():
        path.write_bytes(damage(whole))
        if reader in (log, log_of_a_resumed_run, log_of_a_trial) and what == "empty":
            continue  # a run that logged nothing
        with pytest.raises(ValueError, match=path.name) as raised:
            read()
        text = str(raised.value)
        remedies = ("delete", "name another folder", "run the command", "fit the grid again", "restore it", "which has")
        assert any(remedy in text for remedy in remedies), f"{what}: {text}"
        assert len(text) < 500 and "\n" not in text, f"{what}: {text}"


@pytest.mark.parametrize("name", ["state", "retries", "done", "seconds", "message"])
@pytest.mark.parametrize("value", [None, {}, [7], "x"])
def test_a_record_with_a_field_of_another_kind(name, value, tmp_path):
    path, read = record(tmp_path)
    fields = json.loads(path.read_text())
    if (name, value) == ("message", "x"):
        return
    write_json(path, fields | {name: value})
    with pytest.raises(
        ValueError, match=r"record.json needs the record of a trial, got .*; delete it, and run the sweep"
    ):
        read()
    write_json(path, {field: fields[field] for field in fields if field != name})
    if name in ("state", "done"):
        with pytest.raises(ValueError, match=f"got wrong or missing: {name}; delete it"):
            read()
    else:
        assert read().state == "running"


@pytest.mark.parametrize("damage", [d for name, d in DAMAGES.items() if name != "empty"])
def test_a_damaged_line_of_the_ledger_is_left_out_with_a_warning(damage, tmp_path):
    row = {"step": 1, "results": {"fid": {"value": 2.0, "standard_error": 0.5}}}
    append_row(tmp_path, row)
    path = tmp_path / "ledger.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + damage(whole) + whole)
    rows, (warning,) = read_rows([tmp_path])
    assert [found.values for found in rows] == [row, row] and table(rows)
    assert warning.startswith(f"Line 2 of {path} ") and warning.endswith("; the line is left out.")


@pytest.mark.parametrize(
    "change",
    [
        {"results": 1}, {"results": {"fid": 2.0}}, {"results": {"fid": {}}}, {"results": {"fid": {"value": "2"}}},
        {"results": {"fid": {"value": 10**400}}}, {"results": {"fid": {"value": 1.0, "sd": [1]}}}, {"sampling": 3},
        {"sampling": {"solver": "heun"}}, {"reference": "train"}, {"held_out": []},
    ],
)  # fmt: skip
def test_a_row_with_a_field_of_another_kind_is_left_out_with_a_warning(change, tmp_path):
    append_row(tmp_path, {"results": {}} | change)
    rows, (warning,) = read_rows([tmp_path])
    assert not rows and warning.startswith(f"Line 1 of {tmp_path / 'ledger.jsonl'} ")


def test_the_published_ledger_is_read_whole():
    rows, warnings = read_rows([pathlib.Path(__file__).parents[2] / "docs"])
    assert rows and not warnings


@pytest.mark.parametrize("content", [{"mean": {"a": 1}}, {"mean": 10**400}, {"mean": [[1.0]]}, {"mean": "1"}])
def test_a_metric_that_is_no_number(content, tmp_path):
    write_json(tmp_path / "likelihood.json", content)
    with pytest.raises(ValueError, match=r"metric 'likelihood.json:mean' needs a number, got .*likelihood.json"):
        Metric("likelihood.json:mean").read(tmp_path)
    with pytest.raises(ValueError, match=r"needs 'b' in .*likelihood.json"):
        Metric("likelihood.json:mean.b").read(tmp_path)


def test_a_lock_that_holds_anything(tmp_path):
    """The file says who holds the lock; whatever it says, the other run is refused in one sentence."""
    with RunLock(tmp_path):
        for damage in DAMAGES.values():
            (tmp_path / "run.lock").write_bytes(damage(b'{"host": "a", "pid": 1, "started": "now"}')[:1000])
            with pytest.raises(OSError, match="Another run.* is training in"), RunLock(tmp_path):
                pass


def test_what_read_json_accepts_and_what_its_messages_say(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": [1, NaN]}')  # as an editor on Windows saves it
    assert read_json(path, "do this")["a"][0] == 1 and read_json(path, "do this", object)
    with pytest.raises(ValueError, match="a.json needs a list of JSON, got an object; do this."):
        read_json(path, "do this", list)
    write_json(path, [[]] * 1000)
    assert len(read_json(path, "do this", list)) == 1000  # many, none deep
    path.write_bytes(b" " * (2**24 + 1))
    with pytest.raises(ValueError, match="a.json needs JSON of at most 16,777,216 bytes, got 16,777,217; do this."):
        read_json(path, "do this")
    with pytest.raises(ValueError, match="needs to be a file of JSON, got something else; do this."):
        read_json(tmp_path, "do this")
    with pytest.raises(FileNotFoundError, match="none.json"):
        read_json(tmp_path / "none.json", "do this")
    with pytest.raises(ValueError, match="Line 3 is not whole JSON, it was cut off or damaged .*char 1.*; do this."):
        parse_json("{", "Line 3", "do this")
    deep = json.loads("[" * 100 + "]" * 100)
    assert parse_json(json.dumps(deep), "It", "do this", list) == deep
    with pytest.raises(ValueError, match="It needs JSON of at most 100 levels, got more; do this."):
        parse_json(json.dumps([deep]), "It", "do this", list)
