"""Config files by name. The user's folder is searched first, then the package."""

import inspect
import pathlib
import runpy
import traceback
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from score_sde.config.lookup import closest

FOLDER = pathlib.Path(__file__).parent.parent / "configs"  # the folder of the package's configs


def find_file(name: str, flag: str = "--config") -> pathlib.Path:
    """The file of a name such as "configs/quickstart.py". "configs/" and ".py" may be left out.

    Raises: FileNotFoundError with a list of the package's files and the closest name.
    """
    relative = pathlib.PurePosixPath(name)
    inside = relative.relative_to("configs") if relative.parts[:1] == ("configs",) else relative
    places = [pathlib.Path(name), *([] if relative.is_absolute() else [FOLDER / inside])]
    for place in places:
        for path in (place, place.with_name(f"{place.name}.py")) if place.name else ():
            if path.is_file():
                return path
    known = package_files("sweeps" if flag == "--sweep" else "")
    raise FileNotFoundError(
        f"{flag} needs FILE.py[:variant], got {name!r}; it is neither in the working folder nor among {known}."
        f"{closest(name, known)}"
    )


def package_files(folder: str = "") -> list[str]:
    """The files of the package as a command line names them: configs of trainings, or those in a folder such as "sweeps"."""
    paths = sorted(path for path in (FOLDER / folder).rglob("*.py") if path.name != "__init__.py")
    names = [pathlib.PurePosixPath("configs", *path.relative_to(FOLDER).parts) for path in paths]
    return [str(name) for name in names if folder or "sweeps" not in name.parts]


def load_config(name: str) -> ConfigDict:
    """The config of FILE.py[:variant], from its function get_config.

    Raises: FileNotFoundError where there is no such file. ValueError where the file fails.
    """
    config = call(name, "get_config", "a ConfigDict")
    if not isinstance(config, ConfigDict):
        raise ValueError(
            f"get_config() of {name} needs to return a ConfigDict, as configs/base.py does, got {type(config).__name__}."
        )
    return config


def call(name: str, function: str, result: str, flag: str = "--config") -> Any:
    """The result of a function in FILE.py[:variant], called with the variant if there is one.

    Args:
      function: the name of the function.
      result: the expected result, for the message.
    Raises: FileNotFoundError where there is no such file. ValueError where the file fails.
    """
    file, _, variant = name.partition(":")
    path = find_file(file, flag)
    get: Any = _run(path, lambda: runpy.run_path(str(path))).get(function)
    if not callable(get):
        raise ValueError(f"{flag} needs a file with a function {function}() that returns {result}, got {file}.")
    if variant and not inspect.signature(get).parameters:
        raise ValueError(f"{file} has no variants, got {variant!r}; drop it.")
    return _run(path, lambda: get(variant) if variant else get())


def _run(path: pathlib.Path, code: Callable[[], Any]) -> Any:
    """The result of `code`. An error in the file at `path` becomes a sentence with its line."""
    try:
        return code()
    except (ImportError, SyntaxError, NameError, TypeError, AttributeError, LookupError) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f"{path}, line {lines[-1]}" if lines else str(path)
        hint = ""
        if isinstance(error, ImportError) and str(error.name or "").partition(".")[0] == "configs":
            hint = " The configs of the package are imported as `from score_sde.configs import base`."
        raise ValueError(f"{where} cannot be read: {type(error).__name__}: {error}.{hint}") from error
