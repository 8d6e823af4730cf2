"""Readers of files, each with a sound file to damage. Nothing here loads JAX until a reader needs it."""

import dataclasses
import io
import json
import pathlib
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from score_sde.data.arrays import ArraySource
from score_sde.generation import parts
from score_sde.importers import dinov2, inception, lpips, read_safetensors, read_torch_archive
from score_sde.importers.weight_files import read_weights
from score_sde.internal import files, guarded
from tests.damaged.files import named, pickled, safetensors, storage, tensor, zip_of

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "metrics"
RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 3)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Reader:
    """What reads a file called `name`, and a file that it reads."""

    name: str
    read: Callable[[pathlib.Path], Any]
    data: bytes


def npz(save=np.savez, **arrays: Any) -> bytes:
    out = io.BytesIO()
    save(out, **arrays)
    return out.getvalue()


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def torch_file() -> bytes:
    place = storage("0", 6)
    value = named({"a": tensor((3, 2), (2, 1), of=place), "inner": named({"b": tensor((2,), (1,), 4, of=place)})})
    return zip_of(
        {"x/data.pkl": pickled(value), "x/byteorder": b"little", "x/data/0": X.tobytes()[:24]}, as_pytorch=True
    )


def safe_file() -> bytes:
    head = b'{"a":{"dtype":"F32","shape":[5,3],"data_offsets":[0,60]},"b":{"dtype":"I64","shape":[],"data_offsets":[60,68]}}'
    return safetensors(head, X.tobytes() + bytes(8))


def lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def ledger(path: pathlib.Path) -> Any:
    from score_sde.evaluation.ledger import read_rows, table
    from score_sde.evaluation.row_comparison import differences

    rows, _ = read_rows([path.parent])
    return table(rows) if len(rows) < 2 else (table(rows), differences(rows[0], rows[1]))


def record(path: pathlib.Path) -> Any:
    from score_sde.sweeps.trial import read_record

    return read_record(path)


def log(path: pathlib.Path) -> Any:
    from score_sde.sweeps.metric import last_step
    from score_sde.training.logs.logging import read_metrics

    return read_metrics(path), last_step(path.parent)


def number(path: pathlib.Path) -> Any:
    from score_sde.sweeps import Metric

    return Metric(f"{path.name}:mean.0").read(path.parent)


def grid(path: pathlib.Path) -> Any:
    from score_sde.solvers.grids.fitted import Fitted

    return Fitted(path=str(path))


def manifest(path: pathlib.Path) -> Any:
    from score_sde.runs.streams import claim

    return claim(path.parent, {"digest": "1", "config": {"seed": 0}})


ROW = {
    "step": 1,
    "nfe": 3.0,
    "sampling": {"solver": {"name": "heun"}, "grid": {"num_steps": 3}},
    "reference": {"name": "a"},
}
ROW |= {
    "seeds": [0, 1],
    "results": {"fid": {"value": 2.0, "standard_error": 0.5, "note": "n"}, "kid": {"value": 1e-3, "sd": 0.1}},
}
DONE = {"state": "running", "retries": 1, "done": ["python -m a"], "seconds": 2.5, "message": ""}


def reference(path: pathlib.Path) -> Any:
    from score_sde.evaluation.references import load_reference  # 5 seconds

    return load_reference(path)


def reference_file() -> bytes:
    description = {
        "format": "score_sde reference 1",
        "digest": "d",
        "features": "pixels",
        "extractor": "e",
        "shape": [3],
    }
    text = np.array(str(description).replace("'", '"'))
    statistics = {"pool_count": np.asarray(5), "pool_mean": X.mean(0), "pool_cov": np.cov(X.T)}
    return npz(**statistics, features=X, description=text)


def part(path: pathlib.Path) -> Any:
    return parts.NpzParts(path.parent, [0]).read(0, ["x"])


def column(path: pathlib.Path) -> Any:
    return parts.NpzParts(path.parent, [0]).column("x")


def partial(path: pathlib.Path) -> Any:
    return parts.NpyParts(path.parent, [0], X.shape, "float32").write(0, {"x": X})


READERS = {
    "torch archive": Reader("a.pth", read_torch_archive, torch_file()),
    "old torch file": Reader("a.pth", read_torch_archive, (GOLDEN / "torch_old.pth").read_bytes()),
    "safetensors": Reader("a.safetensors", read_safetensors, safe_file()),
    "npy": Reader("a.npy", lambda path: guarded.read_npy(path, "write it again"), npy(X)),
    "npy, mapped": Reader("a.npy", lambda path: guarded.read_npy(path, "write it again", mapped=True).sum(), npy(X)),
    "npz": Reader("a.npz", lambda path: guarded.Npz(path, "write it again").read(), npz(x=X, y=np.array("text"))),
    "npz, compressed": Reader("a.npz", lambda path: guarded.Npz(path, "write it again").read(), npz(np.savez_compressed, x=X)),
    "array source, npy": Reader("a.npy", ArraySource, npy(X)),
    "array source, npz": Reader("a.npz", ArraySource, npz(x=X, y=np.arange(5))),
    "parts": Reader("part_00000000.npz", part, npz(x=X)),
    "parts, joined": Reader("part_00000000.npz", column, npz(x=X)),
    "parts in place": Reader("x.npy.partial", partial, npy(X)),
    "converted weights": Reader("a.npz", lambda path: read_weights(path, "N", "a command"), npz(a=X)),
    "InceptionV3": Reader("a.npz", inception.load_inception, npz(**{"conv.weight": X, "mixed.conv.bn.weight": X})),
    "DINOv2": Reader("a.npz", dinov2.load_dinov2, npz(cls_token=X[None], pos_embed=X[None])),
    "DINOv2 to import": Reader("a.pth", lambda path: dinov2.import_dinov2(path, path.with_name("b.npz")), torch_file()),
    "InceptionV3 to import": Reader("a.pth", lambda p: inception.import_inception(p, p.with_name("b.npz")), torch_file()),
    "LPIPS to import": Reader("a.pth", lambda p: lpips.import_lpips(p, p, p.with_name("b.npz")), torch_file()),
    "LPIPS": Reader("a.npz", lpips.load_lpips, npz(lin0=X, lin1=X)),
    "JSON": Reader("a.json", lambda path: files.read_json(path, "write it"), b'{"seed": 0, "data": {"x": [1.5, null]}}\n'),
    "ledger": Reader("ledger.jsonl", ledger, lines(ROW, ROW | {"step": 2})),
    "record of a trial": Reader("record.json", record, lines(DONE)),
    "log": Reader("metrics.jsonl", log, lines({"step": 1, "loss": 0.5}, {"step": 2, "loss": "NaN", "grad_norm": 1e-3})),
    "a number in JSON": Reader("a.json", number, lines({"mean": [1.5]})),
    "fitted grid": Reader("a.json", grid, lines({"knots": [2.0, 1.0, 0.5], "cumulative": [0.0, 0.4, 1.0]})),
    "manifest of a stream": Reader("manifest.json", manifest, lines({"digest": "1", "config": {"seed": 0}})),
    "reference": Reader("a.npz", reference, reference_file()),
    "reference of another code": Reader("a.npz", reference, npz(np.savez_compressed, mu=X.mean(0), sigma=np.cov(X.T))),
}  # fmt: skip
FORGIVING = ("ledger", "log")  # a damaged line is left out, or is the last one
REFUSED = (
    "InceptionV3",
    "DINOv2",
    "DINOv2 to import",
    "InceptionV3 to import",
    "LPIPS",
    "LPIPS to import",
)  # another network


def inside(data: bytes) -> list[tuple[dict[str, bytes], str]]:
    """Of a zip file: its members, and each name in turn, so that a member is damaged and the file around it is whole."""
    if data[:4] != b"PK\x03\x04":
        return []
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        members = {name: file.read(name) for name in file.namelist()}
    return [(members, name) for name in members]
