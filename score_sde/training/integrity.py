"""SHA-256 of every file of a folder, in the format of `sha256sum`, so that a changed byte is found and named."""

import concurrent.futures
import hashlib
import pathlib

from score_sde.files import write_text

MANIFEST = "MANIFEST.sha256"


def write_manifest(folder: pathlib.Path, leave_out: frozenset[str] = frozenset()) -> None:
    """Writes folder/MANIFEST.sha256 with a line "digest  path" for each file below; `sha256sum -c` reads it.

    Args: leave_out: names of files directly in `folder` that are written later.
    """
    names = sorted(_files(folder) - leave_out - {MANIFEST})
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        digests = pool.map(lambda name: _digest(folder / name), names)
        write_text(folder / MANIFEST, "".join(f"{d}  {name}\n" for d, name in zip(digests, names, strict=True)))


def find_damage(folder: pathlib.Path) -> list[str]:
    """What differs from the manifest: "state/d/12ab was changed" or "… is missing"; [] if all is as it was written.

    Raises: FileNotFoundError without a manifest.
    """
    damage = []
    for line in (folder / MANIFEST).read_text(encoding="utf-8", errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        if len(digest) != 64 or not name:
            damage.append(f"{MANIFEST} was changed")
        elif not (folder / name).is_file():
            damage.append(f"{name} is missing")
        elif _digest(folder / name) != digest:
            damage.append(f"{name} was changed")
    return damage


def _files(folder: pathlib.Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _digest(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
