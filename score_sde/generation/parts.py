"""A large result on disk, written part by part: an interrupted run continues, and leaves the same bytes.

A part is a range of indices, named by its first index. A part is complete or absent. Everything is
written under a temporary name, brought to the disk, and renamed. This module knows neither JAX nor
the meaning of the arrays.
"""

import abc
import functools
import itertools
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import IO

import numpy as np

from score_sde.internal.files import write_atomically
from score_sde.internal.guarded import Npz, read_npy, read_npy_header

Arrays = Mapping[str, np.ndarray]

IMAGES_PER_FOLDER = 1000
REMEDY = "delete that file, and run the command again: it computes what is missing"
_REMEDY_OF_ALL = "delete its folder, and run the command again"
ROWS = "rows"  # until the end, the folder of everything but the pixels


class Parts(abc.ABC):
    """Parts in a folder. Several processes may call `write` for different parts, in any order.

    Args:
      folder: the folder, which `prepare` makes if it is missing.
      firsts: the first index of every part, increasing.
    """

    def __init__(self, folder: pathlib.Path, firsts: Sequence[int]):
        self.folder, self.firsts = pathlib.Path(folder), list(firsts)
        self._there = frozenset[int]()

    def prepare(self) -> None:
        """Makes the folder, and the files that the first part needs. A second call changes nothing."""
        self.folder.mkdir(parents=True, exist_ok=True)

    def is_done(self, first: int) -> bool:
        """Whether the part that begins at index `first` is on disk."""
        return first in self._there or self._part(first).is_file()

    def covered(self, first: int, number: int) -> np.ndarray:
        """Which of the indices first … first + number − 1 are on disk, in parts of any size.

        Raises: ValueError for a damaged part.
        """
        covered = np.zeros(number, bool)
        for path in self._files():
            index = read_part(path, ["index"])["index"]
            covered[index[(index >= first) & (index < first + number)] - first] = True
        return covered

    def divide(self, first: int, covered: np.ndarray, part_size: int) -> dict[int, int]:
        """Divides the indices from `first` on into parts of at most `part_size`. Indices on disk count as done.

        Returns: the number of indices of each part, by its first index.
        """
        edges = [0, *(np.flatnonzero(np.diff(covered)) + 1).tolist(), len(covered)]
        ranges = [range(start, end, part_size) for start, end in itertools.pairwise(edges)]
        sizes = {first + start: min(part_size, inside.stop - start) for inside in ranges for start in inside}
        self.firsts, self._there = list(sizes), frozenset(i for i in sizes if covered[i - first])
        return sizes

    @abc.abstractmethod
    def write(self, first: int, arrays: Arrays) -> None:
        """Writes a part: arrays with one row per index, among them "x"."""

    def finish(self) -> None:
        """Brings the result into its final form, after all parts are written. A second call changes nothing.

        Raises: FileNotFoundError where a part is missing.
        """
        missing = [first for first in self.firsts if not self.is_done(first)]
        if missing:
            raise FileNotFoundError(
                f"{len(missing)} parts are missing in {self.folder}, the first at index {missing[0]}; all processes need to "
                "see the same folder: write to a shared disk, and run the command again."
            )

    @abc.abstractmethod
    def _part(self, first: int) -> pathlib.Path:
        """The file whose existence says that the part is complete."""

    def _files(self) -> list[pathlib.Path]:
        """The parts on disk, in order."""
        found = self._part(0).parent.glob(self._part(0).name.replace("00000000", "*"))
        return sorted(found, key=lambda path: (len(path.name), path.name))


class NpzParts(Parts):
    """part_00000000.npz, part_00000064.npz, …: one file for each part, with all its arrays."""

    @staticmethod
    def save(path: pathlib.Path, arrays: Arrays) -> None:
        """Writes one file with these arrays atomically."""
        write_atomically(path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]

    def write(self, first: int, arrays: Arrays) -> None:
        self.save(self._part(first), arrays)

    def read(self, first: int, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """The arrays of a part with these names. None means all arrays.

        Raises: ValueError for a damaged part.
        """
        return read_part(self._part(first), names)

    def column(self, name: str) -> np.ndarray:
        """One array of all parts, in order.

        Raises: ValueError for a damaged part.
        """
        return joined({self._part(first): self.read(first, [name]) for first in self.firsts}, name)

    def remove(self) -> None:
        """Deletes the parts, and nothing else in the folder."""
        for first in self.firsts:
            self._part(first).unlink(missing_ok=True)

    def _part(self, first: int) -> pathlib.Path:
        return self.folder / f"part_{first:08d}.npz"


class _WithRows(Parts):
    """Formats that store x apart from the other arrays of a part.

    The other arrays wait in rows/, and become one .npy file each at the end. The rows of a part are
    written after its x, so the rows say that the part is complete. index.npy is written last of
    all.
    """

    def is_done(self, first: int) -> bool:
        return super().is_done(first) or bool(self._finished(first, 1)[0])

    def covered(self, first: int, number: int) -> np.ndarray:
        return super().covered(first, number) | self._finished(first, number)

    def _finished(self, first: int, number: int) -> np.ndarray:
        """Which of these indices are in the final files."""
        path, covered = self.folder / "index.npy", np.zeros(number, bool)
        if path.is_file():
            index = read_npy(path, _REMEDY_OF_ALL)
            covered[index[(index >= first) & (index < first + number)] - first] = True
        return covered

    def write(self, first: int, arrays: Arrays) -> None:
        rows = dict(arrays)
        self._write_x(first, rows.pop("x"))
        rows["index"] = first + np.arange(len(arrays["x"]))
        NpzParts.save(self._part(first), rows)

    def finish(self) -> None:
        super().finish()
        parts = {path: read_part(path) for path in self._files()}
        parts = {path: part for path, part in parts.items() if not self._finished(int(part["index"][0]), 1)[0]}
        if parts:
            before = self._before(list(next(iter(parts.values()))))
            columns = {name: joined({**before, **parts}, name) for name in next(iter(parts.values()))}
            self._finish_x()
            for name, column in sorted(columns.items(), key=lambda item: (item[0] == "index", item[0])):
                write_atomically(self.folder / f"{name}.npy", functools.partial(np.save, arr=column))
        shutil.rmtree(self.folder / ROWS, ignore_errors=True)

    def _before(self, names: Sequence[str]) -> dict[pathlib.Path, Arrays]:
        """The content of final files with fewer indices, as a part.

        The other files may have more rows than index.npy, which is written last.
        """
        path = self.folder / "index.npy"
        if not path.is_file():
            return {}
        number = len(read_npy(path, _REMEDY_OF_ALL))
        return {path: {name: read_npy(self.folder / f"{name}.npy", _REMEDY_OF_ALL)[:number] for name in names}}

    def _part(self, first: int) -> pathlib.Path:
        return self.folder / ROWS / f"{first:08d}.npz"

    @abc.abstractmethod
    def _write_x(self, first: int, x: np.ndarray) -> None:
        """Writes x of a part to the disk."""

    def _finish_x(self) -> None:
        """Gives x its final name."""


class PngParts(_WithRows):
    """00000/00000000.png, …: one file per image, a thousand per folder, named by index.

    The other arrays, such as label.npy, lie beside the folders.
    """

    def _write_x(self, first: int, x: np.ndarray) -> None:
        from PIL import Image

        for index, image_u8 in enumerate(x, start=first):
            pixels = image_u8[..., 0] if image_u8.shape[-1] == 1 else image_u8
            path = self.folder / f"{index // IMAGES_PER_FOLDER:05d}" / f"{index:08d}.png"
            write_atomically(path, functools.partial(Image.fromarray(pixels).save, format="PNG"))
        for number in range(first // IMAGES_PER_FOLDER, (first + len(x) - 1) // IMAGES_PER_FOLDER + 1):
            _sync_folder(self.folder / f"{number:05d}")  # the names must be on disk before the rows say so


class NpyParts(_WithRows):
    """x.npy, one array of all rows, written in place. Until it is complete, its name is x.npy.partial.

    Args:
      shape: the shape of the whole array.
      dtype: the dtype of the whole array.
      first_index: the index of the first row. None is the first index of the first part.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        firsts: Sequence[int],
        shape: tuple[int, ...],
        dtype: str,
        first_index: int | None = None,
    ):
        super().__init__(folder, firsts)
        self._shape, self._dtype = shape, np.dtype(dtype)
        self._first_index = firsts[0] if first_index is None else first_index
        self._whole, self._partial = self.folder / "x.npy", self.folder / "x.npy.partial"

    def prepare(self) -> None:
        super().prepare()
        there = [path for path in (self._partial, self._whole) if path.is_file()]
        if any(read_npy_header(path, _REMEDY_OF_ALL).shape[0] >= self._shape[0] for path in there):
            return
        header = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": self._shape}

        def write(file: IO[bytes]) -> None:
            np.lib.format.write_array_header_1_0(file, header)
            end = file.tell() + self._dtype.itemsize * int(np.prod(self._shape, dtype=np.int64))
            if there:  # a finished file with fewer rows, which stay the first rows
                with there[0].open("rb") as shorter:
                    shorter.seek(read_npy_header(there[0], _REMEDY_OF_ALL).start)
                    shutil.copyfileobj(shorter, file)
            file.truncate(end)

        write_atomically(self._partial, write)

    def _write_x(self, first: int, x: np.ndarray) -> None:
        if x.shape[1:] != self._shape[1:] or x.dtype != self._dtype:
            raise ValueError(f"x.npy needs rows {self._dtype} {self._shape[1:]}, got {x.dtype} {x.shape[1:]}.")
        data = np.ascontiguousarray(x)
        start = self._start()
        with self._partial.open("r+b") as file:
            file.seek(start + (first - self._first_index) * data[0].nbytes)
            file.write(data.tobytes())
            file.flush()
            os.fsync(file.fileno())

    def _start(self) -> int:
        """The byte at which the rows begin in the file. The file may have been damaged since `prepare`."""
        header = read_npy_header(self._partial, _REMEDY_OF_ALL)
        if header.shape != self._shape or header.dtype != self._dtype:
            raise ValueError(
                f"{self._partial} needs to hold {self._dtype} {self._shape}, got {header.dtype} {header.shape}; "
                f"{_REMEDY_OF_ALL}."
            )
        return header.start

    def _finish_x(self) -> None:
        if self._partial.is_file():  # an interrupted run may have renamed it already
            self._partial.replace(self._whole)


def read_part(path: pathlib.Path, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of a part.

    Raises: ValueError for a damaged file, or a file without these arrays.
    """
    return Npz(path, REMEDY).read(names)


def joined(parts: Mapping[pathlib.Path, Arrays], name: str) -> np.ndarray:
    """One array of all parts, read from their files in order.

    Raises: ValueError for a part without the array, or with rows of another shape or type than the
      first.
    """
    first = next(iter(parts.values())).get(name)
    for path, part in parts.items():
        rows = part.get(name)
        if (
            rows is None
            or first is None
            or rows.dtype != first.dtype
            or not rows.ndim
            or rows.shape[1:] != first.shape[1:]
        ):
            raise ValueError(f"{path} has no rows {name!r} like those of the other parts; {REMEDY}.")
    return np.concatenate([part[name] for part in parts.values()])


def _sync_folder(folder: pathlib.Path) -> None:
    """Writes the names in a folder to the disk, where the system can do so."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
