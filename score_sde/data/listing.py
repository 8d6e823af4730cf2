"""The image files below a folder, and the files that are left out, with the reason.

Links to files and folders are followed, except a link back to a folder above itself. No file is
opened. Pipes, sockets and devices do not count as files, because opening one could wait for ever.
"""

import dataclasses
import os
import pathlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from score_sde.data.classes import normal

# The formats that Pillow reads by itself. Formats that need another program (.eps, .wmf), and formats
# without a picture of their own, are not among them.
COMMON = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
EXTENSIONS = (
    *COMMON,
    *(".jfif", ".jpe", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".avif", ".avifs", ".apng", ".dib", ".pbm"),
    *(".pnm", ".pfm", ".tga", ".icb", ".vda", ".vst", ".qoi", ".ico", ".icns", ".pcx", ".sgi", ".rgb", ".rgba", ".bw"),
    *(".dds", ".psd", ".ras", ".xbm", ".xpm", ".msp"),
)
LISTED = 4  # the most endings or names that a line lists


@dataclasses.dataclass(frozen=True)
class Listing:
    """The content of a folder.

    Attributes:
      files: the image files by their path relative to the folder, "/" between the parts, in
        alphabetical order.
      passed_over: the number of other files, by the reason why they are left out.
      empty: subfolders of the folder itself that hold no image.
    """

    files: tuple[str, ...]
    passed_over: Mapping[str, int]
    empty: tuple[str, ...]

    def passed_over_in_words(self) -> str:
        """'3 other files (2 .txt, 1 .zip), 1 hidden', or ''."""
        return ", ".join(f"{count:,} {reason}" for reason, count in self.passed_over.items())


def list_images(folder: pathlib.Path, ignored: Iterable[str] = ()) -> Listing:
    """The content of a folder and of all folders below it.

    Args:
      ignored: relative paths of files that are neither images nor counted.
    Raises: OSError with the name of a folder that cannot be read.
    """
    counts, files, endings, unreadable = Counter[str](), [], Counter[str](), Counter[str]()
    for path, entry in _walk(folder, counts):
        ending = pathlib.PurePosixPath(path).suffix.lower()
        if path in ignored:
            continue
        if not _is(entry.is_file, entry):
            counts["pipe(s), socket(s) or device(s)" if os.path.exists(entry.path) else "broken link(s)"] += 1
        elif ending not in EXTENSIONS:
            endings[ending or "no ending"] += 1
        elif not _readable_here(ending):
            unreadable[ending] += 1
        else:
            files.append(path)
    files.sort(key=lambda file: (normal(file), file))  # the same order on macOS, which decomposes names
    filled = {file.split("/")[0] for file in files}
    empty = sorted(entry.name for entry in _subfolders(folder) if entry.name not in filled)
    passed_over = {
        "of other kinds": endings,
        "that the Pillow installed here cannot read": unreadable,
    }
    summed = {f"{words} ({_most(found)})": sum(found.values()) for words, found in passed_over.items() if found}
    return Listing(tuple(files), summed | dict(sorted(counts.items())), tuple(empty))


def _walk(folder: pathlib.Path, counts: Counter[str]) -> Iterator[tuple[str, os.DirEntry]]:
    """Yields every file with its path relative to `folder`. Hidden entries are only counted."""
    waiting: list[tuple[str, str, tuple[tuple[int, int], ...]]] = [("", os.fspath(folder), (_identity(folder),))]
    while waiting:
        prefix, here, above = waiting.pop()
        with _entries(here) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    counts["hidden"] += 1
                elif not _is(entry.is_dir, entry):
                    yield f"{prefix}{entry.name}", entry
                elif entry.is_symlink() and _identity(entry.path) in above:
                    counts["link(s) to a folder above"] += 1
                else:
                    waiting.append((f"{prefix}{entry.name}/", entry.path, (*above, _identity(entry.path))))


def _entries(folder: str | os.PathLike) -> Any:
    try:
        return os.scandir(folder)
    except PermissionError as error:
        raise PermissionError(
            f"FolderSource cannot read the folder {folder} ({error.strerror}); let it be read, or move it away."
        ) from error


def _is(kind: Callable[[], bool], entry: os.DirEntry) -> bool:
    """kind(), which raises an error for a link to itself."""
    try:
        return kind()
    except OSError:
        if entry.is_symlink():
            return False
        raise


def _identity(path: str | os.PathLike) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _subfolders(folder: pathlib.Path) -> list[os.DirEntry]:
    with _entries(folder) as entries:
        return [entry for entry in entries if _is(entry.is_dir, entry) and not entry.name.startswith(".")]


def _most(found: Counter[str]) -> str:
    """'2 .txt, 1 .zip', the most frequent first."""
    ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{count:,} {ending}" for ending, count in ordered[:LISTED]]
    return ", ".join([*parts, "…"] if len(found) > LISTED else parts)


def _readable_here(ending: str) -> bool:
    if ending in COMMON:
        return True
    import PIL.features
    import PIL.Image

    kind = PIL.Image.registered_extensions().get(ending)
    codec = {"AVIF": "avif", "JPEG2000": "jpg_2000"}.get(str(kind))
    return kind in PIL.Image.OPEN and (codec is None or bool(PIL.features.check(codec)))
