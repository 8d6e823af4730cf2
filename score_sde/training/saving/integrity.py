"""The SHA-256 of every file of a folder, in the format of `sha256sum`, to find and name a changed byte.

The first line holds the number of the lines below it, and the SHA-256 of those lines. So a manifest
that was cut, emptied or changed is found too. For `sha256sum -c` the first line is a comment:

    # manifest 2: 14 files, 9f86d081…
    2c26b46b…  run/metadata
"""

import concurrent.futures
import hashlib
import pathlib
import re

from score_sde.internal.files import write_text

MANIFEST = "MANIFEST.sha256"
FORM = 2  # the first form had no first line
_FIRST = re.compile(r"# manifest 2: (\d+) files, ([0-9a-f]{64})")
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def write_manifest(folder: pathlib.Path, leave_out: frozenset[str] = frozenset()) -> None:
    """Writes folder/MANIFEST.sha256 with a line "digest  path" for each file below the folder.

    Args:
      leave_out: names of files directly in `folder` that are written later.
    """
    names = sorted(_files(folder) - leave_out - {MANIFEST})
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        digests = pool.map(lambda name: _digest(folder / name), names)
        lines = "".join(f"{digest}  {name}\n" for digest, name in zip(digests, names, strict=True))
    write_text(folder / MANIFEST, f"# manifest {FORM}: {len(names)} files, {_of(lines)}\n{lines}")


def is_of_first_form(folder: pathlib.Path) -> bool:
    """Whether the manifest has no first line about itself. Nobody could see that such a manifest was cut."""
    return _LINE.match(_read(folder)) is not None


def find_damage(folder: pathlib.Path) -> list[str]:
    """The differences from the manifest, such as "state/d/12ab was changed". [] if all files are as written.

    Raises: FileNotFoundError without a manifest.
    """
    text = _read(folder)
    listed = _listed(text)
    if not _is_whole(text, listed):
        return [f"{MANIFEST} was changed or cut"]
    damage = []
    for name, digest in listed.items():
        if not (folder / name).is_file():
            damage.append(f"{name} is missing")
        elif _digest(folder / name) != digest:
            damage.append(f"{name} was changed")
    return damage


def unlisted(folder: pathlib.Path, leave_out: frozenset[str] = frozenset()) -> list[str]:
    """The files that are not in the manifest.

    Names that begin with a dot do not count, because file managers and network file systems make
    such files.

    Args:
      leave_out: the same names as when the manifest was written.
    """
    others = _files(folder) - _listed(_read(folder)).keys() - leave_out - {MANIFEST}
    return sorted(name for name in others if "/." not in f"/{name}")


def _listed(text: str) -> dict[str, str]:
    """The digest of each name in the manifest."""
    return {name: digest for digest, name in _LINE.findall(text)}


def _is_whole(text: str, listed: dict[str, str]) -> bool:
    first, _, lines = text.partition("\n")
    told = _FIRST.fullmatch(first)
    if told is None:  # the first form, in which every line is the line of a file
        return bool(listed) and text.endswith("\n") and text.count("\n") == len(listed)
    return int(told[1]) == len(listed) and told[2] == _of(lines)


def _read(folder: pathlib.Path) -> str:
    return (folder / MANIFEST).read_bytes().decode(errors="replace")


def _of(lines: str) -> str:
    return hashlib.sha256(lines.encode()).hexdigest()


def _files(folder: pathlib.Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _digest(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
