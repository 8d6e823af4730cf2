"""Tensors from PyTorch's files, as numpy arrays, without PyTorch and without running any code in the file.

Such a file is a zip of raw tensors and one pickle. Before PyTorch 1.6 it was a row of pickles,
followed by the raw tensors. The pickle lists the tensors, and says where in the raw numbers each
tensor lies: a storage, an offset, a shape and strides. All of this is compared with the bytes of
the file before a tensor is made.
"""

import collections
import contextlib
import io
import itertools
import math
import mmap
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from score_sde.importers.torch_pickle import DTYPES, Module, Tensor, read_pickle
from score_sde.importers.weight_files import dtype_of
from score_sde.internal.archives import read_directory, read_member
from score_sde.internal.guarded import check_name, open_file, reading, shortened

OLD_MAGIC = (
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the first pickle of an old file: the number 0x1950A86A20F9469CFC6C
)
MOST_LEVELS = 100  # the most levels of nested dicts and lists
MOST_VISITS = 500_000  # the most visits to dicts, lists and their items; a shared item is visited several times
MOST_TENSORS = 100_000
MOST_PICKLED = 2**26  # the most bytes before the numbers; Python takes up to five times as many for text
MOST_NAMES = 16  # the most names of one tensor, before it counts as two
LARGEST_EMPTY = 2**31  # the longest axis of a tensor without numbers, whose size no storage limits


def read_torch_archive(file: str | pathlib.Path | bytes) -> dict[str, np.ndarray]:
    """Every tensor of a state dict (.pth) or of a TorchScript file (.pt): dotted name -> array.

    A tensor with several names, such as tied weights, is one array. The tensors together may have
    twice the bytes of the file.

    Raises: ValueError for a file of another kind, a damaged file, or a pickle that asks for more
      than data. OSError where the file cannot be opened.
    """
    where = "The file" if isinstance(file, bytes) else file
    remedy = "get it again, and give a file as torch.save or torch.jit.save writes it"
    with (
        reading(where, "tensors of PyTorch", remedy),
        io.BytesIO(file) if isinstance(file, bytes) else open_file(file) as stream,
    ):
        size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        is_old = stream.read(len(OLD_MAGIC)) == OLD_MAGIC
        tree, numbers = (_open_old if is_old else _open_zip)(stream, size)
        return _Tensors(numbers, size).read(tree)


def is_torch_file(start: bytes) -> bool:
    """Whether a file with these first bytes, 15 or more, may be a file of PyTorch."""
    return start.startswith((b"PK\x03\x04", OLD_MAGIC))


def _open_zip(stream: io.BufferedIOBase, size: int) -> tuple[Any, Callable[[str], bytearray]]:
    """(the content of the pickle, a function that reads the bytes of a storage by its key)."""
    members = read_directory(stream)
    pickles = [name for name in members if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError(f"a zip file with one data.pkl is needed, and this one has {len(pickles)}")
    folder = pickles[0].removesuffix("data.pkl")
    order = members.get(f"{folder}byteorder")
    if order is not None and read_member(stream, order) != b"little":
        raise ValueError("its numbers begin with their highest byte, which is not supported")

    def numbers(key: str) -> bytearray:
        if f"{folder}data/{key}" not in members:
            raise ValueError(f"the numbers called {shortened(key)!r} are missing")
        return read_member(stream, members[f"{folder}data/{key}"])

    pickled = members[pickles[0]]
    if pickled.size > MOST_PICKLED:
        raise ValueError(f"a pickle of {pickled.size:,} bytes, more than {MOST_PICKLED:,}")
    tree, _ = read_pickle(io.BytesIO(read_member(stream, pickled)))
    return tree, numbers


def _open_old(stream: io.BufferedIOBase, size: int) -> tuple[Any, Callable[[str], bytearray]]:
    """(the content of the pickle, a function that reads a storage) for an old file.

    An old file holds the magic number, the version, the machine, the tensors, the storages' keys,
    and then the numbers of each storage.
    """
    with _in_memory(stream) as text:
        text.seek(0)
        _, _, (machine, _), (tree, kinds), (keys, _) = [read_pickle(text) for _ in range(5)]
        start = text.tell()
    if not isinstance(machine, dict) or machine.get("little_endian", True) is not True:
        raise ValueError("its numbers begin with their highest byte, which is not supported")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or len(set(keys)) != len(keys):
        raise ValueError("its list of storages is damaged")
    places: dict[str, tuple[int, int]] = {}
    for key in keys:
        stream.seek(start)
        number = int.from_bytes(stream.read(8), "little")
        if key not in kinds:
            raise ValueError(f"the storage {shortened(key)!r} belongs to no tensor")
        places[key] = (start + 8, number * dtype_of(DTYPES[kinds[key]]).itemsize)
        start = sum(places[key])
        if start > size:
            raise ValueError("it is cut off")

    def numbers(key: str) -> bytearray:
        if key not in places:
            raise ValueError(f"the numbers called {shortened(key)!r} are missing")
        stream.seek(places[key][0])
        data = bytearray(places[key][1])
        stream.readinto(data)
        return data

    return tree, numbers


@contextlib.contextmanager
def _in_memory(stream: io.BufferedIOBase) -> Iterator[Any]:
    """The first part of the stream, mapped into memory if it is a file."""
    if isinstance(stream, io.BytesIO):
        yield io.BytesIO(stream.getbuffer()[:MOST_PICKLED])
    else:
        size = stream.seek(0, os.SEEK_END)
        with mmap.mmap(stream.fileno(), min(size, MOST_PICKLED), access=mmap.ACCESS_READ) as mapped:
            yield mapped


class _Tensors:
    """Makes the arrays of tensors, whose numbers a function reads.

    Together they have at most twice the `size` of the file.
    """

    def __init__(self, numbers: Callable[[str], bytearray], size: int):
        self._numbers, self._size, self._left = numbers, size, 2 * size
        self._storages: dict[str, bytearray] = {}
        self._made: dict[Tensor, np.ndarray] = {}
        self._names: collections.Counter[Tensor] = collections.Counter()

    def read(self, tree: Any) -> dict[str, np.ndarray]:
        """All tensors in the tree, by their dotted names."""
        arrays: dict[str, np.ndarray] = {}
        for name, tensor in _named(tree):
            if name in arrays:
                raise ValueError(f"two tensors are called {shortened(name)!r}")
            if len(arrays) >= MOST_TENSORS:
                raise ValueError(f"more than {MOST_TENSORS:,} tensors")
            arrays[name] = self._array(tensor)
        return arrays

    def _array(self, tensor: Tensor) -> np.ndarray:
        dtype = dtype_of(DTYPES[tensor.storage.kind])
        if self._names[tensor] % MOST_NAMES == 0:
            self._left -= math.prod(tensor.size) * dtype.itemsize
            if self._left < 0:
                raise ValueError("its tensors have more than twice the bytes of the file")
        self._names[tensor] += 1
        if tensor not in self._made:
            self._made[tensor] = self._strided(tensor, dtype)
        return self._made[tensor]

    def _strided(self, tensor: Tensor, dtype: np.dtype) -> np.ndarray:
        """The numbers of a tensor from their places in its storage. A stride may be 0, so the storage may be smaller."""
        key, size = tensor.storage.key, tensor.size
        if key not in self._storages:
            self._storages[key] = self._numbers(key)
        number, rest = divmod(len(self._storages[key]), dtype.itemsize)
        if rest:
            raise ValueError(
                f"a storage of {len(self._storages[key]):,} bytes, which are not a whole number of {dtype}"
            )
        if 0 in size:
            if max(size) > LARGEST_EMPTY:
                raise ValueError(f"a tensor of shape {size}")
            return np.zeros(size, dtype)
        last = tensor.offset + sum((n - 1) * stride for n, stride in zip(size, tensor.stride, strict=True))
        if last >= number:
            raise ValueError(f"a tensor of shape {size} lies beyond its storage of {number:,} numbers")
        steps = [stride * dtype.itemsize if n > 1 else 0 for n, stride in zip(size, tensor.stride, strict=True)]
        numbers = np.frombuffer(self._storages[key], dtype)[tensor.offset :]
        return np.lib.stride_tricks.as_strided(numbers, size, steps).copy()


def _named(tree: Any) -> Iterator[tuple[str, Tensor]]:
    """Every tensor with its dotted name, in the order of the file."""
    visits = itertools.count(1)

    def walk(node: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
        if isinstance(node, Tensor):
            check_name(max(path, key=len, default=""))  # checked before all names are joined
            name = ".".join(path)
            check_name(name)
            yield name, node
            return
        if len(path) >= MOST_LEVELS:
            raise ValueError(f"dicts and lists in more than {MOST_LEVELS} levels, or one that holds itself")
        for name, value in _items(node):
            if next(visits) > MOST_VISITS:
                raise ValueError(f"more than {MOST_VISITS:,} items in dicts and lists")
            if isinstance(value, Tensor | Module | dict | list | tuple):
                yield from walk(value, (*path, str(name)))

    yield from walk(tree, ())


def _items(node: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(node, dict | Module):
        return iter((node if isinstance(node, dict) else node.fields).items())
    return enumerate(node) if isinstance(node, list | tuple) else iter(())
