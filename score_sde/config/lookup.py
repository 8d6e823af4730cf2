"""Members of a catalogue by their name in a config, and other members as "module:attribute"."""

import dataclasses
import difflib
import importlib
import pkgutil
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from score_sde.config.kinds import shown

Members = Mapping[str, Callable[..., Any]]


def closest(name: str, known: Sequence[str]) -> str:
    """' Did you mean …?' if a known name has a similar spelling, else ''."""
    matches = difflib.get_close_matches(name[:100], known, n=1)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def check_names(kind: str, given: Iterable[str], known: Sequence[str], of: str = "it") -> None:
    """Raises ValueError for the first unknown name, with the closest known name.

    `of` is the object that has the known names.
    """
    for name in given:
        if name not in known:
            raise ValueError(
                f"config.{kind} has the unknown field {shown(name)}; {of} takes {list(known)}.{closest(str(name), known)}"
            )


@dataclasses.dataclass(frozen=True)
class Family:
    """The members of one kind that a config can name.

    Attributes:
      members: config name -> the class, or a function that makes an object.
      base: the class of the objects. A config may then name other members as "module:attribute".
        None: it may not.
      ours: parameters of members that a config cannot give, because the library gives them.
      num_args: the number of positional arguments of a member that a config does not contain, such
        as the SDE of an objective.
      infinite: fields that may be infinite, besides those with an infinite default.
      largest: the largest whole number. A larger number is a mistake that would take all memory or
        never end. None: no limit.
    """

    members: Members
    base: type | None = None
    num_args: int = 0
    ours: tuple[str, ...] = ()
    infinite: tuple[str, ...] = ()
    largest: int | None = 1_000_000

    def canonical(self, kind: str, name: Any) -> str:
        """The catalogue's spelling of a name, which may differ in case, "_" and "-".

        "module:attribute" stays as it is.

        Raises: ValueError with the known names and the closest one.
        """
        if name in self.members if isinstance(name, str) else False:
            return name
        if isinstance(name, str) and re.fullmatch(r"[\w.]+:[\w.]+", name) and self.base is not None:
            return name
        alike = [known for known in self.members if isinstance(name, str) and _letters(known) == _letters(name)]
        if len(alike) == 1:
            return alike[0]
        known, outside = sorted(self.members), ", or module:attribute of your own" if self.base is not None else ""
        raise ValueError(
            f"config.{kind}.name needs one of {known}{outside}, got {shown(name)}.{closest(str(name), known)}"
        )

    def find(self, kind: str, name: str) -> Callable[..., Any]:
        """The member of this name, in the catalogue's spelling or as "module:attribute".

        Raises: ValueError for a module that cannot be imported, an attribute that it lacks, or one
          of another kind.
        """
        return (
            self.members[name] if name in self.members else from_outside(f"config.{kind}.name={name}", name, self.base)
        )


def _letters(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def from_outside(what: str, name: str, base: type | None = None) -> Callable[..., Any]:
    """The attribute of "module:attribute": a subclass of `base`, or a function that makes one; without `base` any callable.

    Args: what: the beginning of a message.

    Raises: ValueError for a module that cannot be imported, an attribute that it lacks, or one of another kind.
    """
    module_name, _, attribute = name.partition(":")
    kind = "" if base is None else f"{base.__module__.removesuffix('.base')}.{base.__name__}"
    value: Any = _module(what, module_name)
    for part in attribute.split("."):
        if not hasattr(value, part):
            known = [n for n, v in getattr(value, "__dict__", {}).items() if n[:1] != "_" and _is_one(v, base)]
            things = f"classes of the kind {kind}" if kind else "callables"
            raise ValueError(
                f"{what}: {module_name} has no {attribute!r}; its {things} are {known}.{closest(attribute, known)}"
            )
        value = getattr(value, part)
    if not callable(value) or (base is not None and isinstance(value, type) and not issubclass(value, base)):
        wanted = f"a subclass of {kind}, or a function that makes one" if kind else "a callable"
        raise ValueError(f"{what} needs {wanted}, got {value!r}.")
    return value


def _is_one(value: Any, base: type | None) -> bool:
    """Whether a message should offer this value."""
    return (
        callable(value) if base is None else isinstance(value, type) and issubclass(value, base) and value is not base
    )


def _module(what: str, name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if not f"{name}.".startswith(f"{missing}."):  # the module exists, but imports a module that is missing
            raise ValueError(f"{what}: importing {name} failed: {error}.") from error
        raise ValueError(
            f"{what}: there is no module {missing!r}; modules are looked for in the working folder and among the installed "
            f"packages.{closest(missing, _siblings(missing))}"
        ) from error
    except (ImportError, SyntaxError, TypeError, ValueError, AttributeError, NameError, OSError) as error:
        raise ValueError(f"{what}: importing {name or 'nothing'!r} failed: {type(error).__name__}: {error}.") from error


def _siblings(name: str) -> list[str]:
    """The modules in the folder where a module of this dotted name would be."""
    package, _, _ = name.rpartition(".")
    try:
        path = getattr(importlib.import_module(package), "__path__", []) if package else None
        return [f"{package}.{found.name}" if package else found.name for found in pkgutil.iter_modules(path)]
    except ImportError:
        return []
