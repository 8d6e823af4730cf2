"""Config sections: their names and fields checked against the known ones, and objects built from them."""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from score_sde.plain_config import Field, is_number, plain

Catalogue = Mapping[str, Callable[..., Any]]


def closest(name: str, known: Sequence[str]) -> str:
    """' Did you mean …?' where something known is spelt alike, else ''."""
    matches = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def check_names(kind: str, given: Iterable[str], known: Sequence[str], of: str = "it") -> None:
    """Raises ValueError for the first name that is not known, with the closest; `of` is what takes the known ones."""
    for name in given:
        if name not in known:
            raise ValueError(
                f"config.{kind} has the unknown field {name!r}; {of} takes {list(known)}.{closest(name, known)}"
            )


def check_fields(kind: str, section: Any, fields: Mapping[str, Field]) -> None:
    """Raises ValueError unless `section` has all fields but the optional ones, no others, and allowed values."""
    if not isinstance(section, Mapping | ConfigDict):
        raise ValueError(f"config.{kind} needs a section with the fields {list(fields)}, got {section!r}.")
    check_names(kind, section, list(fields))
    missing = [name for name, field in fields.items() if not field.optional and name not in section]
    if missing:
        raise ValueError(f"config.{kind} needs the fields {missing} too, got only {list(section)}.")
    for name, value in section.items():
        if not fields[name].accepts(value):
            raise ValueError(f"config.{kind}.{name} needs {fields[name].allowed}, got {value!r}.")


def check_path(config: ConfigDict, path: str, optional: Sequence[str] = (), flag: str = "") -> None:
    """Raises ValueError unless a config has the field of a dotted path, or it is one of the `optional`.

    Args: flag: what stands before the path on the command line, for the message.
    """
    section, here = config, "the config"
    for name in path.split("."):
        if not isinstance(section, ConfigDict):
            raise ValueError(f"{flag}{path} needs a section, but {here} is {section!r}; set all of {here} instead.")
        if name not in section and path not in optional:
            known = list(section)
            raise ValueError(f"{flag}{path}: {here} has no {name!r}; it has {known}.{closest(name, known)}")
        section, here = section.get(name), name if section is config else f"{here}.{name}"


KINDS: tuple[tuple[str, Callable[[Any], bool]], ...] = (
    ("a section, as {'name': …}", lambda value: isinstance(value, Mapping | ConfigDict)),
    ("True or False", lambda value: isinstance(value, bool)),
    ("a number", is_number),
    ("a tuple", lambda value: isinstance(value, tuple | list)),
    ("a text", lambda value: isinstance(value, str)),
)


def check_kind(path: str, current: Any, value: Any) -> None:
    """Raises ValueError where a section, number, tuple … would become something else; None may be, and become, all."""
    for name, has_kind in KINDS:
        if value is not None and has_kind(current) and not has_kind(value):
            raise ValueError(f"{path} needs {name}, like {plain(current)!r}, got {value!r}.")


class Part(NamedTuple):
    """What a section with a name becomes: a member of `catalogue`, called with `num_args` arguments that no config holds.

    `nested` are the catalogues of the fields that are sections themselves, at any depth.
    """

    catalogue: Catalogue
    nested: Mapping[str, Catalogue] = {}
    num_args: int = 0

    def defaults(self, name: str) -> dict[str, Any]:
        """The fields that a section with this name may leave out, with what they are then."""
        parameters = _parameters(self.catalogue[name], self.num_args) if name in self.catalogue else []
        plain = (type(None), bool, int, float, str, list, tuple)
        return {p.name: p.default for p in parameters if isinstance(p.default, plain)}

    def check(self, kind: str, section: Any) -> None:
        """Raises ValueError that lists the known names or fields, with the closest, for one that is not among them."""
        known = sorted(self.catalogue)
        if not isinstance(section, Mapping | ConfigDict):
            raise ValueError(
                f"config.{kind} needs a section with a name, as {{'name': {known[0]!r}}}, got {section!r}; the names are "
                f"{known}."
            )
        name: Any = section.get("name")
        if name not in self.catalogue:
            raise ValueError(f"config.{kind}.name needs one of {known}, got {name!r}.{closest(str(name), known)}")
        parameters = _parameters(self.catalogue[name], self.num_args)
        if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
            fields = [field for field in section if field != "name"]
            check_names(kind, fields, [parameter.name for parameter in parameters], repr(name))
        for field, value in section.items():
            if field in self.nested and value is not None:
                Part(self.nested[field], self.nested).check(f"{kind}.{field}", value)


def build(kind: str, catalogue: Catalogue, section: Mapping[str, Any], *args: Any, **nested: Catalogue) -> Any:
    """Builds `catalogue[section["name"]](*args, **other fields)`.

    Args:
      kind: how the section is called in the config, for messages: "sde", "objective.weighting".
      args: positional arguments of the constructor that no config holds, such as the SDE of an objective.
      nested: catalogues of the fields that are sections themselves, at any depth.
    Raises: ValueError that lists the known names or fields, with the closest, or tells what the constructor refused.
    """
    Part(catalogue, nested, len(args)).check(kind, section)
    name, fields = section["name"], {field: value for field, value in section.items() if field != "name"}
    for field, value in fields.items():
        if field in nested and value is not None:
            fields[field] = build(f"{kind}.{field}", nested[field], value, **nested)
    try:
        return catalogue[name](*args, **fields)
    except TypeError as error:
        raise ValueError(f"config.{kind}: {name!r} cannot be built from {fields}: {error}") from error


def _parameters(function: Callable[..., Any], num_args: int) -> list[inspect.Parameter]:
    """The parameters that a config gives. Flax adds `parent` and `name` to every module."""
    parameters = list(inspect.signature(function).parameters.values())[num_args:]
    return [parameter for parameter in parameters if parameter.name not in ("parent", "name")]
