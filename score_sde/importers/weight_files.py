"""Converted weights on this machine: their paths, how they are written and read, and the digests of their sources."""

import hashlib
import os
import pathlib
import re
import shutil
import urllib.request

import numpy as np

from score_sde.internal.files import remove_temporaries_of, write_atomically
from score_sde.internal.guarded import Npz, reading, shortened

_NAME = re.compile(r"[\w.\-]+")


def weights_path(variable: str, name: str) -> pathlib.Path:
    """The value of an environment variable, or ~/.cache/score_sde/NAME."""
    cache = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
    return pathlib.Path(os.environ.get(variable, f"{cache}/score_sde/{name}"))


def write_weights(path: pathlib.Path, tensors: dict[str, np.ndarray]) -> pathlib.Path:
    """Writes a .npz atomically, and deletes half-written files of an interrupted import.

    Raises: ValueError for a name that an array of a .npz cannot have.
    """
    wrong = [name for name in tensors if not _NAME.fullmatch(name) or name in ("file", "allow_pickle")]
    if wrong:
        raise ValueError(
            f"{path} needs tensors with names of letters, digits, dots and dashes, got {shortened(wrong[0])!r}; convert the "
            "published file."
        )
    remove_temporaries_of(path)
    write_atomically(path, lambda file: np.savez(file, **tensors))  # type: ignore[arg-type]
    return path


def read_weights(path: pathlib.Path, network: str, command: str) -> dict[str, np.ndarray]:
    """The arrays that `write_weights` wrote.

    Raises: FileNotFoundError, with the `command` to import them, where they were never imported.
      ValueError for a damaged file.
    """
    if not path.exists():
        raise FileNotFoundError(f"No {network} weights at {path}; get them by {command}.")
    remedy = f"delete it, and get the weights again by {command}"
    tensors = Npz(path, remedy).read()
    with reading(path, f"weights of {network}", remedy):
        others = [name for name, value in tensors.items() if value.dtype.kind not in "biuf"]
        if others:
            raise ValueError(f"{shortened(others[0])!r} is not an array of real numbers")
    return tensors


def dtype_of(name: str) -> np.dtype:
    """The numpy type of a name, which may be "bfloat16"."""
    if name == "bfloat16":
        import jax.numpy as jnp  # numpy lacks this type; the import is here, so that other files are read without JAX

        return np.dtype(jnp.bfloat16)
    return np.dtype(name)


def file_digest(path: str | pathlib.Path) -> str:
    """The SHA-256 of a file."""
    with pathlib.Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_digest(digest: str, expected: str, what: str) -> None:
    """Raises ValueError where the two digests differ."""
    if digest != expected:
        raise ValueError(f"{what} has SHA-256 {digest}, and should have {expected}; not used.")


def download(url: str, folder: pathlib.Path) -> pathlib.Path:
    """Fetches a file into `folder`, under the last part of its address.

    Raises: OSError, with the remedy, where the file cannot be fetched.
    """
    path = folder / url.rsplit("/", 1)[-1]
    try:
        with urllib.request.urlopen(url, timeout=60) as answer, path.open("wb") as file:
            shutil.copyfileobj(answer, file)
    except OSError as error:
        raise OSError(
            f"{url} could not be fetched: {error}; get the file in another way, and say --help for the flag that names it."
        ) from error
    return path
