"""Tensors out of PyTorch's files, as numpy, without PyTorch and without running what the file says.

Such a file is a zip of raw tensors and one pickle; before PyTorch 1.6 it was a row of pickles with the raw tensors behind
them. A pickle is a program; here it may build dicts, lists, tuples, numbers, strings and tensors, and inert records of
whatever class it names (the modules of a TorchScript file). Nothing is imported.
"""

import io
import pathlib
import pickle
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

DTYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}
OLD_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)


def read_torch_archive(file: str | pathlib.Path | bytes) -> dict[str, np.ndarray]:
    """Reads every tensor of a state dict (.pth) or of a TorchScript file (.pt): dotted name -> array.

    Raises: ValueError for a file of another kind, or a pickle that asks for more than data.
    """
    with io.BytesIO(file) if isinstance(file, bytes) else pathlib.Path(file).open("rb") as stream:
        is_old = stream.read(len(OLD_MAGIC)) == OLD_MAGIC
        try:
            tree = _read_old(stream) if is_old else _read_zip(stream)
        except (zipfile.BadZipFile, _ArchiveError, pickle.UnpicklingError, EOFError, LookupError, TypeError) as error:
            what = "these bytes" if isinstance(file, bytes) else file
            raise ValueError(
                "read_torch_archive needs a zip file with one data.pkl, as torch.save and torch.jit.save write, or a state "
                f"dict as torch.save wrote it before PyTorch 1.6, got {what}."
            ) from error
    tensors: dict[str, np.ndarray] = {}
    _collect(tree, (), tensors)
    return tensors


class _ArchiveError(Exception):
    """The file has another form."""


def _read_zip(stream: io.BufferedIOBase) -> Any:
    archive = zipfile.ZipFile(stream)
    names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(names) != 1:
        raise _ArchiveError
    folder = names[0].removesuffix("data.pkl")

    def storage(kind: str, key: str, *_: Any) -> np.ndarray:
        return np.frombuffer(archive.read(f"{folder}data/{key}"), DTYPES[kind])

    return _Unpickler(io.BytesIO(archive.read(names[0])), storage).load()


def _read_old(stream: io.BufferedIOBase) -> Any:
    """Magic number, version, machine, the tensors' places, the storages' keys, and of each its length and its numbers.

    The places come before the numbers, so they are read twice: to learn what the storages are, and to fill them.
    """
    size, kinds = stream.seek(0, io.SEEK_END), {}
    stream.seek(0)

    def note(kind: str, key: str, location: str, number: int, view: Any = None) -> np.ndarray:
        if view is not None or not 0 <= number * np.dtype(DTYPES[kind]).itemsize <= size:
            raise _ArchiveError
        kinds[key] = kind
        return np.zeros(number, DTYPES[kind])

    for _ in range(3):
        _Unpickler(stream, note).load()
    start = stream.tell()
    _Unpickler(stream, note).load()
    storages = {}
    for key in _Unpickler(stream, note).load():
        number = int.from_bytes(stream.read(8), "little")
        dtype = np.dtype(DTYPES[kinds[key]])
        raw = stream.read(min(number * dtype.itemsize, size))
        if len(raw) != number * dtype.itemsize:
            raise _ArchiveError
        storages[key] = np.frombuffer(raw, dtype)
    stream.seek(start)
    return _Unpickler(stream, lambda kind, key, *_: storages[key]).load()


class _Record:
    """Stands for an object of any class: its fields are kept, its code is not run."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {"state": state})


class _Unpickler(pickle.Unpickler):
    """Reads data only: every global is one of ours, by its name."""

    def __init__(self, stream: io.BufferedIOBase, storage: Callable[..., np.ndarray]) -> None:
        super().__init__(stream)
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a global of the pickle.

        Raises: ValueError for anything but PyTorch's tensors, TorchScript's modules and OrderedDict.
        """
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module.startswith("__torch__"):
            return type(name, (_Record,), {})
        if module.startswith("torch"):
            if name in ("_rebuild_tensor_v2", "_rebuild_tensor"):
                return _rebuild_tensor
            if name == "_rebuild_parameter":
                return lambda tensor, *_: tensor
            if name in DTYPES:
                return name
            if name.startswith("build_") and module == "torch.jit._pickle":
                return lambda *values: values[0] if len(values) == 1 else values
        raise ValueError(f"The file's pickle asks for {module}.{name}, which is not data; it is not a file of weights.")

    def persistent_load(self, pid: Any) -> np.ndarray:
        """The numbers of a storage."""
        return self._storage(*pid[1:])


def _rebuild_tensor(storage: np.ndarray, offset: int, size: tuple, stride: tuple, *_: Any) -> np.ndarray:
    """A tensor from its place in a storage.

    Raises: ValueError where it would reach beyond the storage.
    """
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if 0 in size:
        return np.zeros(size, storage.dtype)
    if offset < 0 or min((0, *stride)) < 0 or last >= len(storage):
        raise ValueError(
            f"The file is damaged: a tensor of shape {size} lies beyond its storage of {len(storage)} numbers."
        )
    steps = [s * storage.itemsize for s in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps).copy()


def _collect(node: Any, path: tuple[str, ...], tensors: dict[str, np.ndarray]) -> None:
    if isinstance(node, np.ndarray):
        tensors[".".join(path)] = node
    elif isinstance(node, dict | _Record):
        for name, value in (node if isinstance(node, dict) else vars(node)).items():
            _collect(value, (*path, str(name)), tensors)
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            _collect(value, (*path, str(index)), tensors)
