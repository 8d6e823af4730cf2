"""A path to a folder without the characters that libraries read as patterns, addresses or bucket names."""

import contextlib
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator

_PLAIN = re.compile(r"[\w./ +=,@-]+", re.ASCII)
_DESCRIPTORS = pathlib.Path("/proc/self/fd")


@contextlib.contextmanager
def plain_path(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Another path to `folder`, valid in this process and in this context.

    A plain path stays as it is, and so does a path without a folder.

    Orbax finds its own files with glob(path + pattern). If the path contains [ ] * or ?, orbax
    finds no files, or the files of another folder. TensorStore accepts neither "gs:" in the middle
    of a path nor names that are not UTF-8. On Linux, the other path is /proc/self/fd/N of the
    opened folder, so nothing is left behind when the process is killed. Elsewhere it is a symbolic
    link in a new temporary folder, which is removed at the end.
    """
    if _PLAIN.fullmatch(str(folder)) or not folder.is_dir():
        yield folder
        return
    with contextlib.ExitStack() as stack:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        stack.callback(os.close, descriptor)
        alias = _DESCRIPTORS / str(descriptor)
        if not alias.is_dir():
            alias = _link_to(folder, stack)
        yield alias


def _link_to(folder: pathlib.Path, stack: contextlib.ExitStack) -> pathlib.Path:
    """A symbolic link to `folder`, which `stack` removes."""
    parent = next(path for path in (tempfile.gettempdir(), "/tmp") if _PLAIN.fullmatch(path))
    link = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="score_sde_", dir=parent))) / "workdir"
    link.symlink_to(folder.absolute(), target_is_directory=True)
    return link
