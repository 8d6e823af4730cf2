"""Tensors out of PyTorch's zip files, as numpy, without PyTorch and without running what the file says.

Such a file is a zip of raw tensors and one pickle. A pickle is a program; here it may build dicts, lists, tuples, numbers,
strings and tensors, and inert records of whatever class it names (the modules of a TorchScript file). Nothing is imported.
"""

import io
import pathlib
import pickle
import zipfile
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


def read_torch_archive(file: str | pathlib.Path | bytes) -> dict[str, np.ndarray]:
    """Reads every tensor of a state dict (.pth) or of a TorchScript file (.pt): dotted name -> array.

    Raises: ValueError for a file of another kind, or a pickle that asks for more than data.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(file) if isinstance(file, bytes) else file)
        (name,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    except (zipfile.BadZipFile, ValueError) as error:
        what = "these bytes" if isinstance(file, bytes) else file
        raise ValueError(
            f"read_torch_archive needs a zip file with one data.pkl, as torch.save and torch.jit.save write, got {what}; "
            "convert older files with torch.save(torch.load(…, weights_only=True), …)."
        ) from error
    tree = _Unpickler(archive, name.removesuffix("data.pkl")).load()
    tensors: dict[str, np.ndarray] = {}
    _collect(tree, (), tensors)
    return tensors


class _Record:
    """Stands for an object of any class: its fields are kept, its code is not run."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {"state": state})


class _Unpickler(pickle.Unpickler):
    """Reads data only: every global is one of ours, by its name."""

    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{folder}data.pkl")))
        self._archive, self._folder = archive, folder

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
        _, kind, key, *_ = pid
        return np.frombuffer(self._archive.read(f"{self._folder}data/{key}"), DTYPES[kind])


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
