"""The ledger: lines are complete, and rows are compared and drawn."""

import concurrent.futures
import json

import pytest

from score_sde.evaluation import ledger
from score_sde.evaluation.ledger import (
    append_row,
    copy_rows,
    digest_of_json,
    find_row,
    read_rows,
    table,
    with_error,
    without_folders,
)
from tests.multiprocess.launch import ROOT


def row(value, step=1000, nfe=35.0, ema="5", sd=None, **more):
    result = {"value": value, "standard_error": 0.25} | ({} if sd is None else {"sd": sd})
    sampling = {"solver": {"name": "heun"}, "grid": {"num_steps": 18}}
    reference = {"name": "/data/cifar10.npz", "digest": "aa", "count": 50000}
    fields = {
        "step": step,
        "training_images": 128 * step,
        "nfe": nfe,
        "ema": ema,
        "sampling": sampling,
        "seeds": [0, 1],
    }
    fields |= {
        "num_samples": 50000,
        "reference": reference,
        "features": "inception",
        "command": "python -m x",
        "date": "1",
    }
    return {**fields, "results": {"fid": result}, **more}


def written(folder, *rows):
    folder.mkdir(exist_ok=True)
    for values in rows:
        append_row(folder, values)
    return read_rows([folder])[0]


def test_lines_of_many_writers_stay_whole(tmp_path):
    rows = [{"number": i, "text": "é" * 3000, "results": {}} for i in range(40)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda values: append_row(tmp_path, values), rows))
    read, warnings = read_rows([tmp_path])
    assert sorted(r.values["number"] for r in read) == list(range(40)) and not warnings
    assert [r.number for r in read] == list(range(1, 41))


def test_a_line_that_a_crash_cut_off(tmp_path):
    append_row(tmp_path, {"number": 1, "results": {}})
    with (tmp_path / "ledger.jsonl").open("a") as file:
        file.write(json.dumps({"number": 2})[:-4])
    append_row(tmp_path, {"number": 3, "results": {}})
    rows, (warning,) = read_rows([tmp_path])
    assert [r.values["number"] for r in rows] == [1, 3] and "Line 2 of" in warning
    with pytest.raises(FileNotFoundError, match=r"No ledger.jsonl in .*score-sde evaluate writes it"):
        read_rows([tmp_path / "none"])


def test_the_table(tmp_path):
    text = table(written(tmp_path, row(3.14159), row(2.5, sd=0.5, step=7)))
    lines = text.splitlines()
    assert lines[0].split() == [
        *(
            "row",
            "workdir",
            "step",
            "ema",
            "solver",
            "steps",
            "nfe",
            "num_samples",
            "seeds",
            "reference",
            "features",
            "fid",
        )
    ]
    assert lines[1].split()[2:] == [
        *("1000", "5", "heun", "18", "35", "50000", "0,1", "cifar10.npz", "inception", "3.14", "±", "0.25", "se")
    ]
    assert lines[2].endswith("2.50 ± 0.50 sd")  # of the seeds, before the standard error of their mean
    assert with_error({"value": 8.0, "split_sd": 0.25}) == "8.00 ± 0.25 sd of splits"
    assert with_error({"value": 8.0}) == "8"


RELATIVE = {"reference": {"name": "data/cifar10.npz", "digest": "aa", "count": 50000}}


def test_rows_are_copied_once_and_keep_their_workdir(tmp_path):
    rows = written(tmp_path / "run", row(1.0, workdir="runs/vp", **RELATIVE), row(2.0, workdir="runs/ve", **RELATIVE))
    assert copy_rows(rows[1:], tmp_path / "docs") == 1 and copy_rows(rows, tmp_path / "docs") == 1
    copied, _ = read_rows([tmp_path / "docs"])
    assert [r.values for r in copied] == [rows[1].values, rows[0].values]
    assert [line.split()[1] for line in table(copied).splitlines()[1:]] == ["ve", "vp"]


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("workdir", "/home/me/runs/vp"),
        ("command", "python -m experiments.evaluate --workdir=/scratch/vp --metrics=fid"),
        ("command", "python -m experiments.evaluate '--set=data.eval.path=/data/x.npz'"),
        ("command", "python -m experiments.evaluate --reference=~/cifar10.npz"),
        ("reference", {"name": "C:\\data\\a.npz"}),
    ],
)
def test_rows_with_paths_of_one_machine_are_not_copied(tmp_path, field, text):
    rows = written(tmp_path, row(1.0, **RELATIVE), row(2.0, **RELATIVE | {field: text}))
    with pytest.raises(ValueError, match=r"Only rows without absolute paths can be copied, got .* in row 2; evaluate"):
        copy_rows(rows, tmp_path / "docs")
    assert not (tmp_path / "docs").exists()


def test_what_a_row_tells_of_its_data_holds_no_path_of_this_machine():
    content = {"name": "array", "path": "/data/x.npz", "files": ["~/a.npz", "data/b.npz"], "n": 3, "t": "a /b c"}
    assert without_folders(content) == content | {"path": "x.npz", "files": ["a.npz", "data/b.npz"]}


def test_the_published_ledger():
    """Every line of it is a row, and none holds a path of the machine that it comes from."""
    folder = ROOT / "docs"
    if not (folder / ledger.LEDGER).is_file():
        pytest.skip("nothing is published")
    rows, warnings = read_rows([folder])
    assert not warnings and len(table(rows).splitlines()) == 1 + len(rows)
    assert not [path for r in rows for path in ledger._absolute_paths(r.values)]
    assert all({"command", "config_digest", "checkpoint_digest", "results"} <= r.values.keys() for r in rows)


def test_rows_by_number(tmp_path):
    rows = written(tmp_path, row(1.0))
    assert find_row(rows, 1).values["command"] == "python -m x"
    with pytest.raises(ValueError, match="needs a row from 1 to 1, got 2"):
        find_row(rows, 2)
    assert digest_of_json({"a": 1, "b": 2}) == digest_of_json({"b": 2, "a": 1}) != digest_of_json({"a": 1})
