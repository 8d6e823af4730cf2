"""Checks that the files of a checkpoint are as they were written, and advice where they are not."""

import logging
import os
import pathlib
import shlex

from score_sde.internal.files import read_json
from score_sde.training.saving.integrity import FORM, MANIFEST, find_damage, is_of_first_form, unlisted

FOLDER = "checkpoints"
# Orbax writes these two files last, after the manifest. A restored state does not depend on them.
WRITTEN_LAST = frozenset({"_CHECKPOINT_METADATA", "commit_success.txt"})


def steps_on_disk(workdir: pathlib.Path) -> list[int]:
    """The steps of the checkpoints in `workdir`, increasing.

    `Checkpoints.latest` asks orbax. Orbax forgets an old checkpoint as soon as it begins to write
    the checkpoint that replaces it.
    """
    return sorted(int(path.name) for path in (pathlib.Path(workdir) / FOLDER).glob("*") if path.name.isdigit())


def check_access(directory: pathlib.Path, read_only: bool) -> None:
    """Raises OSError unless `directory` is absent, or a folder that can be read and, unless `read_only`, written."""
    if directory.exists() and not directory.is_dir():
        raise OSError(f"{directory} needs to be a folder of checkpoints, got a file; move it away.")
    needed = os.R_OK | os.X_OK | (0 if read_only else os.W_OK)
    if directory.is_dir() and not os.access(directory, needed):
        verb = "read" if read_only else "read and written"
        raise OSError(
            f"{directory} cannot be {verb} by this user; change its permissions or its mount, or choose another --workdir."
        )


def check_files(directory: pathlib.Path, step: int) -> None:
    """Raises ValueError unless directory/step holds every file as it was written, and no other file.

    A checkpoint of an earlier version cannot prove all of this. Then a warning says so.
    """
    folder = directory / str(step)
    if not ((folder / "state").is_dir() and (folder / "run").is_dir()):
        raise ValueError(
            advice(directory, step, "is not a complete checkpoint of this library: it lacks state/ or run/")
        )
    damage = _damage(folder)
    if damage:
        raise ValueError(advice(directory, step, f"is damaged: {'; '.join(damage[:3])}"))
    if not (folder / MANIFEST).is_file():
        logging.warning("%s has no %s: it is read unverified.", folder, MANIFEST)
        return
    others = ", ".join(unlisted(folder, WRITTEN_LAST)[:3])
    if is_of_first_form(folder):
        if others:  # a manifest of the first form may have been cut
            raise ValueError(advice(directory, step, f"is damaged: {MANIFEST} has no line of {others}"))
        logging.warning("%s has a %s of an earlier version, which does not tell its own length.", folder, MANIFEST)
    elif others:
        raise ValueError(
            f"The checkpoint {folder} holds files that do not belong to it: {others}. Nothing was changed. Move them away, "
            "and run the same command again."
        )


def advice(directory: pathlib.Path, step: int, trouble: str) -> str:
    """'<folder> <trouble>.', and how to continue from the newest sound checkpoint before it."""
    folder = directory / str(step)
    older = [n for n in reversed(steps_on_disk(directory.parent)) if n < step and _is_sound(directory / str(n))]
    start = (
        f"from step {older[0]}, the newest sound one before it"
        if older
        else "from step 0, as no other is known to be sound"
    )
    return (
        f"The checkpoint {folder} {trouble}. Nothing was changed. To go on {start}, move it away or delete it "
        f"(rm -r {shlex.quote(str(folder))}) and run the same command again."
    )


def _is_sound(folder: pathlib.Path) -> bool:
    return (folder / MANIFEST).is_file() and not _damage(folder)


def _damage(folder: pathlib.Path) -> list[str]:
    """The damage to the files of a checkpoint, according to its manifest. An earlier version may lack the manifest."""
    try:
        form = read_json(folder / "run" / "metadata", "it is damaged").get("manifest", 1)
    except (ValueError, OSError):
        form = 1
    if not (folder / MANIFEST).is_file():
        return [f"{MANIFEST} is missing"] if form == FORM else []
    if form == FORM and is_of_first_form(folder):
        return [f"the first line of {MANIFEST} is missing"]
    return find_damage(folder)
