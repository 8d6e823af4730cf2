"""Fields of a config set from a command line: "sde.beta_max" and the text "20" give a value of the field's type.

| text | value |
|---|---|
| `20`, `5e1`, `(1, 2)`, `None`, `True` | a Python literal, where the field takes one; 5e1 may become 50 |
| `photos/train` | a text, where the field takes one |
| `ve`, for a section with a name | the section: the catalogue's member of this name with its defaults |
| `{"name": "ve", "sigma_max": 10}` | the whole section; fields left out have their defaults |
| `{"sigma_max": 10}` | these fields of the section; the other fields stay |
| `classifier_free`, for a list of sections | the list with this one member and its defaults |
| `3.0`, for `sampling.guidance.0.scale` | a field of the first section of a list |
| `piecewise`, for `sampling.guidance.0.schedule` | a section within the first section of a list |

A float without a fraction becomes a whole number where the field takes only whole numbers.
"""

import ast
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from score_sde.config import kinds
from score_sde.config.building import (
    Catalogues,
    checked_member,
    checked_members,
    checked_value,
    fixed_section,
    is_member,
    is_members,
    section_options,
)
from score_sde.config.kinds import Refused, shown
from score_sde.config.lookup import Family, check_names, closest
from score_sde.config.options import Option, Options, options_of
from score_sde.config.sections import Settings

_LONGEST = 100_000  # the most characters of a value
_WORDS = {"true": True, "false": False, "null": None, "inf": math.inf, "nan": math.nan}  # in addition to Python's own


class _Place(NamedTuple):
    """A field, with the way to it from the whole config."""

    section: ConfigDict
    name: str
    option: Option
    path: str


def apply_overrides(config: ConfigDict, overrides: Iterable[tuple[str, str]], catalogues: Catalogues) -> None:
    """Sets fields given as (path, text), sections before the fields in them.

    Sections of a catalogue that is not loaded are ignored, with their fields.

    Raises: ValueError for a path that is not a field, or a text that is not a value of the field.
    """
    _apply(config, overrides, catalogues, _read)


def apply_values(config: ConfigDict, overrides: Iterable[tuple[str, Any]], catalogues: Catalogues) -> None:
    """As `apply_overrides`, with values in place of texts."""
    _apply(config, overrides, catalogues, lambda value, option: value)


def _apply(
    config: ConfigDict, overrides: Iterable[tuple[str, Any]], catalogues: Catalogues, read: Callable[[Any, Option], Any]
) -> None:
    with config.unlocked(), config.ignore_type():
        for path, value in sorted(overrides, key=lambda override: _order(override[0])):
            if _set_in_list(config, path, value, catalogues, read):
                continue
            place = _place(config, path, catalogues)
            if place is not None:
                _set(place, read(value, place.option), catalogues)


def _order(path: str) -> tuple[int, bool]:
    """Sections before the fields in them, and a name before the fields of the named member."""
    return path.count("."), not path.endswith(".name")


def _set_in_list(
    config: ConfigDict, path: str, value: Any, catalogues: Catalogues, read: Callable[[Any, Option], Any]
) -> bool:
    """Sets "LIST.NUMBER.FIELD", a field of a section in a list, or a field within it.

    Returns False for a path through no list.

    Raises: ValueError for a number that the list does not have, or a field that its section does
      not have.
    """
    number = next((part for part in path.split(".") if part.isdecimal()), "")
    before, _, field = path.partition(f".{number}.")
    place = _place(config, before, catalogues) if number and before and field else None
    if place is None or not is_members(place.option.annotation):
        return False
    family = catalogues.family(before, place.option.annotation)
    if family is None:
        return True
    sections = list(checked_members(before, family, place.section.get(place.name) or [], catalogues))
    if int(number) >= len(sections):
        raise ValueError(f"config.{before} has {len(sections)} sections, numbered from 0, got {shown(path)}.")
    section, here = ConfigDict(sections[int(number)]), f"{before}[{number}]"
    options = options_of(family.find(before, section["name"]), family.num_args)
    with section.ignore_type():
        inner = _walk(options, section, here, repr(section["name"]), field.split("."), catalogues)
        if inner is not None:
            _set(inner, read(value, inner.option), catalogues)
    sections[int(number)] = checked_member(here, family, section.to_dict(), catalogues)
    place.section[place.name] = tuple(sections)
    return True


def _place(config: ConfigDict, path: str, catalogues: Catalogues) -> _Place | None:
    """The place for the value of a dotted path. None within a section whose catalogue is not loaded."""
    return _walk(options_of(Settings), config, "", "it", path.split("."), catalogues)


def _walk(
    options: Options, section: ConfigDict, here: str, of: str, names: Sequence[str], catalogues: Catalogues
) -> _Place | None:
    """The place, starting from a section at `here` with the fields `options`."""
    *parents, last = names
    for parent in parents:
        option = _option(options, here, parent, of)
        here = f"{here}.{parent}".lstrip(".")
        if is_member(option.annotation) and catalogues.family(here, option.annotation) is None:
            return None
        options, of = _options_in(here, option, section, parent, catalogues)
        section = section[parent]
    path = f"{here}.{last}".lstrip(".")
    return _Place(section, last, _option(options, here, last, of), path)


def _option(options: Options, path: str, name: str, of: str) -> Option:
    if options.has_name and name == "name":
        return Option(str, "")
    if options.is_open:
        return options.fields.get(name, Option(Any, None))
    known = list(options.fields)
    if path:
        check_names(path, [name], known, of)
    elif name not in known:
        raise ValueError(f"A config has no section {shown(name)}; it has {known}.{closest(name, known)}")
    return options.fields[name]


def _options_in(
    path: str, option: Option, section: ConfigDict, name: str, catalogues: Catalogues
) -> tuple[Options, str]:
    """(the fields of the section at `path`, the object that has these fields)."""
    given = section.get(name)
    fixed = fixed_section(option.annotation)
    if is_members(option.annotation):
        raise ValueError(f"config.{path} is a list of sections; number them from 0, as {path}.0.name.")
    if fixed is not None:
        if given is None:
            section[name] = given = ConfigDict()
        _check_section(path, given)
        of = repr(given["name"]) if "name" in given else "it"
        return section_options(path, fixed, given.to_dict(), catalogues), of
    family = catalogues.family(path, option.annotation)
    if family is not None:
        if given is None and isinstance(option.default, Mapping):
            section[name] = given = ConfigDict(option.default)
        if given is None:
            example = sorted(family.members)[0]
            raise ValueError(f"config.{path} is None and has no fields; give it a name first, as {path}={example}.")
        _check_section(path, given)
        canonical = family.canonical(path, given.get("name"))
        members = options_of(family.find(path, canonical), family.num_args)
        return members._replace(has_name=True), repr(canonical)
    if kinds.is_mapping(option.annotation):
        if not isinstance(given, ConfigDict):
            section[name] = ConfigDict()
        return Options({}, is_open=True), "it"
    raise ValueError(f"config.{path} is not a section and has no fields; set {path} itself.")


def _check_section(path: str, given: Any) -> None:
    if not isinstance(given, ConfigDict):
        raise ValueError(f"config.{path} needs to be a section, but is {shown(given)}; set all of {path} instead.")


def _set(place: _Place, value: Any, catalogues: Catalogues) -> None:
    """Sets a value in its place: the field, or the fields of a section one by one."""
    _, _, option, path = place
    if fixed_section(option.annotation) is not None:
        _set_fixed(place, value, catalogues)
        return
    family = catalogues.family(path, option.annotation)
    if is_members(option.annotation):
        if family is not None:
            place.section[place.name] = tuple(checked_members(path, family, value, catalogues))
        return
    if family is not None and not (value is None and kinds.allows_none(option.annotation)):
        _set_member(place, family, value, catalogues)
    elif family is not None or not is_member(option.annotation):
        value = checked_value(path, option, value, catalogues)
        named = catalogues.at.get(path.removesuffix(".name")) if path.endswith(".name") else None
        _assign(place, value if named is None else named.canonical(path.removesuffix(".name"), value))


def _set_fixed(place: _Place, value: Any, catalogues: Catalogues) -> None:
    options, of = _options_in(place.path, place.option, place.section, place.name, catalogues)
    if isinstance(value, str) and "name" in options.fields:
        value = {"name": value}
    if not isinstance(value, Mapping):
        first = next(iter(options.fields))
        raise ValueError(
            f"config.{place.path} is a section: set its fields, as {place.path}.{first}=… or {{'{first}': …}}, got "
            f"{shown(value)}."
        )
    _merge(place, options, of, value, catalogues)


def _set_member(place: _Place, family: Family, value: Any, catalogues: Catalogues) -> None:
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping):
        raise ValueError(
            f"config.{place.path} needs one of the names {sorted(family.members)}, or {{'name': …, 'field': …}} with "
            f"fields of its own, got {shown(value)}."
        )
    if "name" in value:
        _assign(place, {**value, "name": family.canonical(place.path, value["name"])})
    else:
        options, of = _options_in(place.path, place.option, place.section, place.name, catalogues)
        _merge(place, options, of, value, catalogues)


def _merge(place: _Place, options: Options, of: str, value: Mapping[Any, Any], catalogues: Catalogues) -> None:
    for field, part in value.items():
        option = _option(options, place.path, str(field), of)
        _set(_Place(place.section[place.name], str(field), option, f"{place.path}.{field}"), part, catalogues)


def _assign(place: _Place, value: Any) -> None:
    if isinstance(value, Mapping):
        try:
            value = ConfigDict(kinds.convert(Mapping[str, Any], value))
        except Refused:
            raise ValueError(f"config.{place.path} needs plain values with names, got {shown(value)}.") from None
    place.section[place.name] = value


def _read(text: str, option: Option) -> Any:
    """The value of a text on the command line, for a field of this type."""
    annotation = option.annotation
    value = literal(text)
    if kinds.is_text(annotation):  # a quoted text is read as a literal, and any other text stays as it is
        is_none = value is None and kinds.allows_none(annotation)
        return value if is_none or isinstance(value, str) else text
    if kinds.members(annotation) == (bool,):
        return {"1": True, "t": True, "0": False, "f": False}.get(text.lower(), value)
    if kinds.is_sequence(annotation) and not (value is None or isinstance(value, list | tuple | Mapping)):
        return (value,)
    return value


def literal(text: str) -> Any:
    """A Python literal, or `true`, `false`, `null`, `inf` or `nan`. Any other text stays a text.

    Raises: ValueError for a text that is too long.
    """
    if len(text) > _LONGEST:
        raise ValueError(f"A value may have {_LONGEST:,} characters, got {len(text):,}; write a config file with it.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about texts that only look like numbers
            return ast.literal_eval(_Words().visit(ast.parse(text.strip(), mode="eval")))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError, OverflowError):
        return text


class _Words(ast.NodeTransformer):
    """Replaces the names in `_WORDS` by their values."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.copy_location(ast.Constant(_WORDS[node.id.lower()]), node) if node.id.lower() in _WORDS else node
