"""Readers of files that may be damaged: arrays, archives, weights. Every error names the file and the remedy.

All such files are opened here. A reader works inside of `reading`. It raises ValueError with the
reason alone, as part of a sentence. An exception that numpy, zlib or Python's parsers raise for
damaged bytes is a reason too. Nothing in a file is executed. No file makes this process take much
more memory than the bytes of the file.
"""

import contextlib
import io
import math
import os
import pathlib
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

from score_sde.internal.archives import STORED, Member, read_directory, read_member

LONGEST_HEADER = 10_000  # the most bytes of text before an array, which is also numpy's limit
LONGEST_NAME = 1000
MOST_AXES = 32
# The limits of unpacking: as a multiple of the file's bytes, and in bytes. dSprites unpacks to 116 times
# its bytes.
MOST_EXPANSION, SMALL = 250, 2**27
# Matches {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), } without its spaces. Python 2 wrote
# (3L, 4L).
_FIELD = r"""['"](descr|fortran_order|shape)['"]:(?:['"]([^'"]*)['"]|(True|False)|(\([\dL,]*\)))"""
_FIELDS = re.compile(rf"\{{{_FIELD},{_FIELD},{_FIELD},?\}}")
_SHAPE = re.compile(r"\((?:\d+L?,)*(?:\d+L?)?\)")
_DTYPE = re.compile(r"[<>|=]?[biufcSUV?]\d{0,9}")  # numbers, text, and bytes such as bfloat16's
_LONGEST_REASON = 200


@contextlib.contextmanager
def reading(where: str | os.PathLike[str], what: str, remedy: str) -> Iterator[None]:
    """A context that turns every exception of a damaged file into a ValueError.

    The message is "WHERE cannot be read as WHAT (reason); REMEDY". An OSError that names its file
    passes unchanged. So does everything that is not an Exception, such as Ctrl-C.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(f"{where} cannot be read ({error}); {remedy}.") from error
    except Exception as error:  # any Exception, because each version of a parser raises other kinds
        raise ValueError(f"{where} cannot be read as {what} ({_reason(error)}); {remedy}.") from error


def open_file(path: str | os.PathLike[str]) -> io.BufferedIOBase:
    """Opens a file to read.

    Raises: ValueError, with a reason as part of a sentence, for a folder, or a pipe, which never
      ends.
    """
    path = pathlib.Path(path)
    if path.exists() and not path.is_file():
        raise ValueError("it is a folder, a pipe or a device, not a file")
    return path.open("rb")


def read_npy(path: str | os.PathLike[str], remedy: str, *, mapped: bool = False) -> Shaped[np.ndarray, "..."]:
    """The array of a .npy file, `mapped` into memory or read.

    Raises: ValueError for a damaged file, or a file that holds more than plain numbers. OSError
      where the file cannot be opened.
    """
    header = read_npy_header(path, remedy)
    with reading(path, "plain arrays", remedy), open_file(path) as file:
        if mapped:
            return _map(path, header)
        file.seek(header.start)
        data = bytearray(header.nbytes)
        if file.readinto(data) != header.nbytes:
            raise ValueError("it was cut off while it was read")
        return header.array(data, 0)


def read_npy_header(path: str | os.PathLike[str], remedy: str) -> "Header":
    """The header of the array in a .npy file.

    Raises: the same as `read_npy`, also where the file is too short.
    """
    with reading(path, "plain arrays", remedy), open_file(path) as file:
        return _read_header(file, 0, file.seek(0, os.SEEK_END))


class Npz:
    """The arrays of a .npz file. The constructor reads their names, and each method opens the file again.

    Raises: ValueError for a damaged file, in any method. OSError where the file cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str], remedy: str):
        self.path, self._remedy = pathlib.Path(path), remedy
        with self._reading() as file:
            members = read_directory(file)
        self._members = {name.removesuffix(".npy"): m for name, m in members.items() if name.endswith(".npy")}

    @property
    def names(self) -> list[str]:
        """The names of the arrays, in the order of the file."""
        return list(self._members)

    def read(self, names: Sequence[str] | None = None) -> dict[str, Shaped[np.ndarray, "..."]]:
        """The arrays of these names. None means all. Compressed arrays may have at most 250 times the bytes of the file."""
        with self._reading() as file:
            left = max(SMALL, MOST_EXPANSION * file.seek(0, os.SEEK_END))
            arrays = {}
            for name in self._checked(names):
                arrays[name] = _read_array(file, self._members[name], max(0, left))
                left -= arrays[name].nbytes
            return arrays

    def map(self, names: Sequence[str]) -> dict[str, Shaped[np.ndarray, "..."]]:
        """The arrays of these names, mapped into memory where they are not compressed. A compressed array is read."""
        with self._reading() as file:
            arrays, packed = {}, []
            for name in self._checked(names):
                member = self._members[name]
                if member.method == STORED:
                    arrays[name] = _map(self.path, _read_header(file, member.start, member.start + member.stored))
                else:
                    packed.append(name)
        return arrays | self.read(packed)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[io.BufferedIOBase]:
        with reading(self.path, "plain arrays", self._remedy), open_file(self.path) as file:
            yield file

    def _checked(self, names: Sequence[str] | None) -> list[str]:
        absent = [name for name in names or () if name not in self._members]
        if absent:
            raise ValueError(f"it has no array {', '.join(absent)}, but {', '.join(self._members)}")
        return self.names if names is None else list(names)


class Header(NamedTuple):
    """The header before the numbers of an array. `start` is the place of the first number in the file."""

    dtype: np.dtype
    shape: tuple[int, ...]
    fortran_order: bool
    start: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def array(self, data: bytearray, start: int) -> Shaped[np.ndarray, "..."]:
        """The array whose numbers begin at `start` of `data`."""
        return np.ndarray(self.shape, self.dtype, data, start, order="F" if self.fortran_order else "C")


def _read_array(file: io.BufferedIOBase, member: Member, most: int) -> Shaped[np.ndarray, "..."]:
    data = read_member(file, member, most)
    header = _parse_header(bytes(data[: LONGEST_HEADER + 12]), 0, len(data))
    return header.array(data, header.start)


def _map(path: str | os.PathLike[str], header: Header) -> Shaped[np.ndarray, "..."]:
    if not header.nbytes:  # an empty array cannot be mapped
        return np.zeros(header.shape, header.dtype)
    return np.memmap(path, header.dtype, "r", header.start, header.shape, "F" if header.fortran_order else "C")


def _read_header(file: io.BufferedIOBase, start: int, end: int) -> Header:
    file.seek(start)
    return _parse_header(file.read(min(LONGEST_HEADER + 12, end - start)), start, end)


def _parse_header(text: bytes, start: int, end: int) -> Header:
    """The header of an array that lies at `start` to `end` of a file and begins with `text`.

    Source: numpy.lib.format, versions 1.0 and 2.0 of the format. Version 3.0 is for the names of
      fields, which plain arrays do not have.
    """
    if text[:6] != b"\x93NUMPY" or text[6:8] not in (b"\x01\x00", b"\x02\x00", b"\x03\x00"):
        raise ValueError("it does not begin as an array of numpy")
    width = 2 if text[6] == 1 else 4
    length, begin = int.from_bytes(text[8 : 8 + width], "little"), 8 + width
    if length > LONGEST_HEADER or begin + length > len(text):
        raise ValueError(f"a header of {length:,} bytes, or one that is cut off")
    fields = _parse_fields(text[begin : begin + length].decode("latin-1"))
    header = Header(*fields, start + begin + length)
    if header.start + header.nbytes > end:
        raise ValueError(
            f"{header.dtype} of shape {header.shape} needs {header.nbytes:,} bytes, and {end - header.start:,} are there"
        )
    return header


def _parse_fields(text: str) -> tuple[np.dtype, tuple[int, ...], bool]:
    """(type, shape, order) from a header's text.

    It does not use Python's parser, because a header can keep that parser busy or exhaust its
    memory.
    """
    found = _FIELDS.fullmatch("".join(text.split()))
    fields = {name: [part for part in parts if part is not None] for name, *parts in _quadruples(found)}
    descr, order, shape = (fields.get(name, [""])[0] for name in ("descr", "fortran_order", "shape"))
    if order not in ("True", "False") or not _SHAPE.fullmatch(shape):
        raise ValueError(f"the header {shortened(text)!r} describes no plain array")
    try:
        dtype = np.dtype(descr) if _DTYPE.fullmatch(descr) else None
    except TypeError:  # a number of 3 bytes
        dtype = None
    if dtype is None or not dtype.itemsize:
        raise ValueError(f"it holds {shortened(descr)!r}, not only numbers or text")
    sizes = tuple(int(size) for size in re.findall(r"\d+", shape))
    if not is_shape(sizes):
        raise ValueError("a shape that no array has")
    return dtype, sizes, order == "True"


def _quadruples(found: re.Match | None) -> Iterator[tuple[str | None, ...]]:
    groups = found.groups() if found else ()
    return zip(*[iter(groups)] * 4, strict=True)


def is_shape(values: Sequence[object]) -> bool:
    """Whether an array may have this shape: at most 32 whole numbers from 0 to 2⁶²."""
    return len(values) <= MOST_AXES and all(type(n) is int and 0 <= n <= 2**62 for n in values)


def check_name(name: str) -> None:
    """Raises ValueError for an array name that is very long, or that is not a text which a file can hold."""
    if len(name) > LONGEST_NAME:
        raise ValueError(f"a tensor with a name of more than {LONGEST_NAME:,} characters")
    if any("\ud800" <= character <= "\udfff" for character in name):
        raise ValueError(f"a tensor with the name {shortened(name)!r}, which is not a text")


def shortened(text: str) -> str:
    """A file's text for a message: one line of at most 80 characters."""
    shown = "".join(character if character.isprintable() else "·" for character in text[:81])
    return shown if len(shown) <= 80 else f"{shown[:79]}…"


def listed(names: Iterable[str]) -> list[str]:
    """The first three of a file's names in their order, shortened."""
    return [shortened(name) for name in sorted(names)[:3]]


def _reason(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    text = "".join(c if c.isprintable() else "·" for c in str(error).strip().rstrip("."))
    text = text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}…"
    if text and isinstance(error, ValueError | zlib.error):
        return text
    return f"{type(error).__name__}: {text}".rstrip(": ")
