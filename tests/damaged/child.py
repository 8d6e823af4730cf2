"""Reads hostile files and mutants in a separate process with limited memory.

python -m tests.damaged.child hostile FOLDER
    prints a line of JSON for each file: [name, kind of the error or null, message]
python -m tests.damaged.child pipes FOLDER READER …
    the same, for a pipe and for a folder in place of each file
python -m tests.damaged.child mutants FOLDER NUMBER READER …
    the same for each mutant, the sound file first
"""

import json
import os
import pathlib
import resource
import signal
import sys

import numpy as np

import score_sde.evaluation.references  # noqa: F401  before the limit: JAX takes gigabytes of addresses
from score_sde.data.arrays import ArraySource
from score_sde.importers import read_safetensors, read_torch_archive
from score_sde.internal import guarded
from tests.damaged.corpus import READERS
from tests.damaged.hostile import FILES
from tests.damaged.mutations import mutant

BYTES = 2**29  # that reading a file may take
SECONDS = 20

HOSTILE = {
    "pth": read_torch_archive,
    "npy": lambda path: guarded.read_npy(path, "write it again"),
    "npz": lambda path: guarded.Npz(path, "write it again").read(),
    "safetensors": read_safetensors,
}
MAPPED = {"npy": ArraySource, "npz": ArraySource}


def report(name: str, read, path: pathlib.Path) -> None:
    """Prints what came of reading a file; a file that never ends, or one too many bytes, ends the process."""
    sys.stdout.write(json.dumps(["begin", name]) + "\n")
    sys.stdout.flush()
    signal.alarm(SECONDS)
    try:
        read(path)
        told = [None, ""]
    except Exception as error:
        told = [type(error).__name__, str(error)]
    signal.alarm(0)
    sys.stdout.write(json.dumps([name, *told]) + "\n")


def limit() -> None:
    """Lets this process have so many bytes more than it has now."""
    now = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + BYTES, now + BYTES))


def main() -> None:
    what, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    if what == "hostile":
        for name, make in FILES.items():
            kind = name.split(":")[0]
            (folder / f"{len(list(folder.iterdir()))}.{kind}").write_bytes(make())
        limit()
        for place, name in enumerate(FILES):
            kind = name.split(":")[0]
            path = folder / f"{place}.{kind}"
            report(name, HOSTILE[kind], path)
            if kind in MAPPED:
                report(f"{name}, mapped", MAPPED[kind], path)
        path.write_bytes(READERS["torch archive"].data)  # none of them has changed the reader
        assert set(read_torch_archive(path)) == {"a", "inner.b"}
        return
    limit()
    if what == "pipes":
        for place, reader in enumerate(sys.argv[3:]):
            for kind, make in (("pipe", os.mkfifo), ("folder", os.mkdir)):
                path = folder / f"{place}-{kind}" / READERS[reader].name
                path.parent.mkdir()
                make(path)
                report(f"{reader}: {kind}", READERS[reader].read, path)
        return
    for reader in sys.argv[4:]:
        about, rng = READERS[reader], np.random.default_rng(len(reader))
        path = folder / about.name
        path.write_bytes(about.data)
        report(reader, about.read, path)
        for index in range(int(sys.argv[3])):
            path.write_bytes(mutant(about.data, rng))
            report(f"{reader}: {index}", about.read, path)


if __name__ == "__main__":
    main()
