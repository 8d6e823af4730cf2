"""Parts on disk: killed between any two file operations and started again, they become the same bytes.

The folder first holds fewer indices. Then it grows in parts of another size.
"""

import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from score_sde.generation.parts import NpyParts, NpzParts, PngParts

# Without JAX, so that it may fork: each child is killed at the nth file operation, and another one ends its work.
PROGRAM = """
import os, pathlib, shutil, signal, sys
import numpy as np
from score_sde.internal.files import remove_temporaries
from score_sde.generation.parts import NpyParts, NpzParts, PngParts

folder = pathlib.Path(sys.argv[1])
first, number = 997, 8
x = np.random.default_rng(0).integers(0, 256, (number, 4, 5, 3), dtype=np.uint8)
def npy(place, firsts, number):
    return NpyParts(place, firsts, (number, *x.shape[1:]), "uint8", first)

kinds = {"npz": lambda *args: NpzParts(*args[:2]), "png": lambda *args: PngParts(*args[:2]), "npy": npy}
operations = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")

def work(kind, place, kill_at):
    count = 0
    def hook(event, args):
        nonlocal count
        if event in operations and not (event == "open" and not str(args[0]).startswith(str(place))):
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    place.mkdir(exist_ok=True)
    if not (place / "grown").exists():
        draw(kind, place, 5, 2)  # fewer, and in smaller parts
        (place / "grown").touch()
    draw(kind, place, number, 3)

def draw(kind, place, number, part_size):
    parts = kinds[kind](place, [], number)
    remove_temporaries(place)
    parts.prepare()
    for begin, size in parts.divide(first, parts.covered(first, number), part_size).items():
        if not parts.is_done(begin):
            rows = slice(begin - first, begin - first + size)
            index = {"index": np.arange(begin, begin + size)} if kind == "npz" else {}
            parts.write(begin, {"x": x[rows], "label": np.arange(len(x))[rows], **index})
    parts.finish()

def child(*args):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work(*args)
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def tree(place):
    return {str(p.relative_to(place)): p.read_bytes() for p in place.rglob("*") if p.is_file()}

import PIL.Image, PIL.PngImagePlugin
for kind in kinds:
    whole, place = folder / (kind + "_whole"), folder / kind
    assert child(kind, whole, None) == 0
    wanted, kill_at, killed = tree(whole), 1, -9
    while killed == -9:
        shutil.rmtree(place, ignore_errors=True)
        killed = child(kind, place, kill_at)
        assert killed in (-9, 0), (kind, kill_at, killed)
        if kill_at % 3 == 0:
            child(kind, place, 1 + kill_at % 7)  # and once more, soon after
        assert child(kind, place, None) == 0, (kind, kill_at)
        assert tree(place) == wanted, (kind, kill_at, sorted(tree(place)), sorted(wanted))
        kill_at += {"npz": 1, "npy": 2, "png": 7}[kind]
    print(kind, kill_at)
"""


def test_killed_between_any_two_file_operations(tmp_path):
    run = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    kills = dict(line.split() for line in run.stdout.splitlines())
    assert all(int(kills[kind]) > 8 for kind in ("npz", "png", "npy"))
    images = np.random.default_rng(0).integers(0, 256, (8, 4, 5, 3), dtype=np.uint8)
    parts = sorted((tmp_path / "npz").glob("part_*.npz"))
    assert [path.name for path in parts] == [f"part_{i:08d}.npz" for i in (997, 999, 1001, 1002)]
    with np.load(parts[-1]) as part:
        assert np.array_equal(part["x"], images[5:]) and part["label"].tolist() == [5, 6, 7]
    assert np.array_equal(np.load(tmp_path / "npy" / "x.npy", mmap_mode="r"), images)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "png" / "00001" / "00001002.png")), images[5])
    for kind in ("png", "npy"):
        assert np.load(tmp_path / kind / "index.npy").tolist() == list(range(997, 1005))
        assert np.load(tmp_path / kind / "label.npy").tolist() == list(range(8))
    assert len(list((tmp_path / "png" / "00000").iterdir())) == 3


@pytest.mark.parametrize("kind", [NpzParts, PngParts])
def test_a_missing_part_is_named(kind, tmp_path):
    parts = kind(tmp_path, [0, 4])
    parts.prepare()
    parts.write(0, {"x": np.zeros((4, 2, 2, 1), np.uint8)})
    with pytest.raises(FileNotFoundError, match=r"1 parts are missing in .*the first at index 4; .*shared disk"):
        parts.finish()


def test_rows_of_another_kind_are_refused(tmp_path):
    parts = NpyParts(pathlib.Path(tmp_path), [0], (4, 2), "float32")
    parts.prepare()
    with pytest.raises(ValueError, match=r"x.npy needs rows float32 \(2,\), got float64 \(2,\)"):
        parts.write(0, {"x": np.zeros((4, 2))})
